"""Projects, functions, tasks and runs as a user makes, finds, exports and deletes them; nothing is served here."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import modelserve as ms
from modelserve.deploy import catalog, states, waiting
from modelserve.deploy.change import Change
from modelserve.deploy.record import Record, transition
from modelserve.errors import ConfigError, EntityExists, EntityNotFound, IllegalTransition, TargetError
from tests.deploy import nowhere

HUB = "hf://google-bert/bert-base-uncased"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    nowhere.use(monkeypatch, tmp_path)
    return tmp_path


def function(name: str = "bert", project: str = "demo", **spec: Any) -> ms.Function:
    return ms.new_function(project=project, name=name, kind="huggingfaceserve", **{"path": HUB, **spec})


def kept(type: str) -> int:
    return len(catalog.store().list(type))  # type: ignore[arg-type]


def refused(call: Any, *args: Any, **given: Any) -> str:
    with pytest.raises(ConfigError) as found:
        call(*args, **given)
    return found.value.message


class TestProjects:
    def test_made_found_and_made_again(self) -> None:
        made = ms.new_project("demo", description="a project", labels=["a"])
        assert (made.key, made.name, made.metadata.description) == ("store://demo", "demo", "a project")
        assert ms.get_project("demo") == made == ms.get_or_create_project("demo")
        assert [one.name for one in ms.list_projects()] == ["demo"]
        with pytest.raises(EntityExists, match="there is a project 'demo' already"):
            ms.new_project("demo")
        with pytest.raises(EntityNotFound, match="there is no project 'other'"):
            ms.get_project("other")

    @pytest.mark.parametrize("name", ["", "a/b", "a:b", "ä", "a" * 257, None])
    def test_names(self, name: Any) -> None:
        said = refused(ms.new_project, name)
        assert said.startswith(f"name is {name!r}; a name has 1 to 256 letters"[:200])

    def test_deleted_with_all_that_it_holds(self) -> None:
        project = ms.get_or_create_project("demo")
        run = function().run("serve")
        project.new_secret("TOKEN", "s3cret")
        function(project="other")
        assert refused(ms.delete_project, "demo", cascade=False) == (
            "the project demo has 3 functions, tasks and runs; delete them first, or cascade"
        )
        project.delete()
        assert [("start", run.id), ("delete", run.id)] == nowhere.ASKED
        assert (kept("project"), kept("function"), kept("task"), kept("run")) == (1, 1, 0, 0)
        assert ms.new_project("demo").list_secrets() == []


class TestFunctions:
    def test_a_new_one_of_the_same_name_is_a_new_version(self) -> None:
        first, second = function(model_name="one"), function(model_name="two")
        assert re.fullmatch("[0-9a-f]{32}", first.id)
        assert first.key == f"store://demo/function/huggingfaceserve/bert:{first.id}"
        assert first.reference == f"huggingfaceserve://demo/bert:{first.id}"
        for found in (
            ms.get_function("bert", project="demo"),
            ms.get_function("store://demo/function/huggingfaceserve/bert"),
            ms.get_function("store://demo/function/huggingfaceserve/bert:latest"),
            ms.get_function(second.key),
            ms.get_project("demo").get_function("bert"),
        ):
            assert found == second
            assert found.spec.model_name == "two"
        assert ms.get_function(first.key) == first == ms.get_function("bert", "demo", first.id)
        assert ms.get_function_versions("bert", "demo") == [second, first]
        assert ms.list_functions("demo") == [second]
        assert ms.list_functions("demo", versions="all") == [second, first]
        assert ms.list_functions("demo", kind="sklearnserve") == []

    def test_what_it_keeps(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        made = function(path="models/bert")
        assert made.spec.to_dict() == {"path": str(tmp_path / "models/bert"), "model_name": "model"}
        assert function(image="kserve/huggingfaceserver:v1").spec.image == "kserve/huggingfaceserver:v1"

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"kind": "vllmserve"},
             "kind is 'vllmserve'; it must be one of huggingfaceserve, sklearnserve, mlflowserve"),
            ({"kind": ["huggingfaceserve"]},
             "kind is ['huggingfaceserve']; it must be one of huggingfaceserve, sklearnserve, mlflowserve"),
            ({"path": None}, "path is None; it must say where the model is: hf://org/name, a directory, s3://…"),
            ({"path": "store://demo/model/huggingface/bert"},
             "path is 'store://demo/model/huggingface/bert', a model of a DigitalHub platform, which is not asked "
             "here; give the path that the model has there (s3://…, hf://…) or a local directory"),
            ({"model_name": ""}, "model_name is ''; it must be a text that is not empty"),
            ({"max_length": 3},
             "unknown parameter max_length of a function; it has path, model_name, image, allow_pickle. What a server "
             "is started with is given to run()"),
            ({"uuid": "latest"}, "uuid is 'latest', which stands for the newest version; give another"),
            ({"name": "a b"}, "name is 'a b'; a name has 1 to 256 letters, digits, dots, underscores, plus and minus "
             "signs"),
            ({"project": "a/b"}, "project is 'a/b'; a name has 1 to 256 letters, digits, dots, underscores, plus and "
             "minus signs"),
        ],
    )  # fmt: skip
    def test_refused(self, given: dict[str, Any], message: str) -> None:
        usual = {"project": "demo", "name": "bert", "kind": "huggingfaceserve", "path": HUB}
        assert refused(ms.new_function, **{**usual, **given}) == message
        assert (kept("project"), kept("function")) == (0, 0)

    def test_not_found(self) -> None:
        made = function()
        run = made.run("serve")
        with pytest.raises(EntityNotFound, match="the project 'demo' has no function 'other'"):
            ms.get_function("other", "demo")
        assert refused(ms.get_function, "bert") == "a function is found by its key, or by its name and project="
        assert refused(ms.get_function, run.key) == f"{run.key!r} is the key of a run; a function is wanted"
        assert refused(ms.get_run, made.key) == f"{made.key!r} is the key of a function; a run is wanted"
        assert "is no key; a key is store://project, store://project/function/kind/name:id" in refused(
            ms.get_task, "store://demo/task"
        )

    def test_a_key_whose_parts_do_not_fit(self) -> None:
        made, other = function(), function("other")
        for wrong in (
            made.key.replace("huggingfaceserve", "sklearnserve"),
            made.key.replace("huggingfaceserve", "sklearnserve").rpartition(":")[0],
            made.key.replace("/bert:", "/other:"),
        ):
            with pytest.raises(EntityNotFound, match=f"what is there is {made.key}$"):
                ms.get_function(wrong)
        with pytest.raises(EntityNotFound, match="there is no function 'bert' at that place"):
            ms.delete_function("bert", "demo", entity_id=other.id)
        assert ms.list_functions("demo") == [other, made]

    def test_deleted(self) -> None:
        first, second, third = function(), function(), function()
        run = first.run("serve")
        assert refused(ms.delete_function, "bert", "demo") == (
            "'bert' names every version; give entity_id=, or delete_all_versions=True"
        )
        assert refused(ms.delete_function, first.key, cascade=False) == (
            f"the function bert has the run {run.id}, which is PENDING; stop it first"
        )
        ms.delete_function(second.key)
        assert ms.get_function_versions("bert", "demo") == [third, first]
        ms.delete_function("bert", "demo", delete_all_versions=True)
        assert (kept("function"), kept("task"), kept("run")) == (0, 0, 0)
        assert ("delete", run.id) in nowhere.ASKED

    def test_described(self) -> None:
        function().describe(description="tells <b>masks</b>", labels=["a"])
        found = ms.get_function("bert", "demo")
        assert (found.metadata.description, found.metadata.labels) == ("tells <b>masks</b>", ["a"])


class TestTasks:
    def test_one_for_each_function_and_action(self) -> None:
        made = function()
        with pytest.raises(EntityNotFound, match="the function bert has no task 'serve'; run"):
            made.get_task("serve")
        task = made.new_task("serve", replicas=2)
        assert task.key == f"store://demo/task/huggingfaceserve+serve/{task.id}"
        assert (task.action, task.spec.function, task.spec.replicas) == ("serve", made.reference, 2)
        assert made.get_task("serve") == task == ms.get_task(task.key)
        with pytest.raises(EntityExists, match="has a task 'huggingfaceserve\\+serve' already"):
            made.new_task("serve")
        assert function().list_tasks() == [], "another version has its own"
        assert ms.list_tasks("demo") == made.list_tasks() == [task]

    def test_changed(self) -> None:
        made = function()
        made.set_task("serve", replicas=2, max_length=8)
        made.update_task("serve", max_length=None, envs={"A": "1"})
        assert made.get_task("serve").spec.to_dict() == {
            "function": made.reference,
            "replicas": 2,
            "envs": [{"name": "A", "value": "1"}],
        }
        made.update_task("serve", max_model_len=8)
        made.update_task("serve", max_model_len=None)
        assert made.get_task("serve").spec.max_length is None, "taken out by another of its names, too"
        made.set_task("serve", profile="p")
        assert made.get_task("serve").spec.to_dict() == {"function": made.reference, "profile": "p"}
        made.update_task("serve", return_probabilities=True)
        assert refused(made.update_task, "serve", return_raw_logits=True) == (
            "--return_probabilities and --return_raw_logits exclude each other; give only one of them"
        )
        said = refused(made.update_task, "serve", image="a:b")
        assert said == "image belongs to a run, not to its task; give it to run()"
        assert made.get_task("serve").spec.return_raw_logits is None

    def test_deleted_with_its_runs(self) -> None:
        made = function()
        run = made.run("serve")
        made.delete_task("serve", cascade=False)
        assert (kept("task"), kept("run")) == (0, 1)
        made.run("serve")
        made.delete_task("serve")
        assert made.list_runs() == [run]
        ms.delete_task(made.new_task("serve").key)
        assert kept("task") == 0


class TestRuns:
    def test_references_and_states_as_recorded(self) -> None:
        made = function()
        run = made.run("serve", max_length=8)
        task = made.get_task("serve")
        assert run.key == f"store://demo/run/huggingfaceserve+serve:run/{run.id}"
        assert run.spec.to_dict() == {
            "function": made.reference,
            "task": f"huggingfaceserve+serve://demo/{task.id}",
            "action": "serve",
            "target": "local",
            "path": HUB,
            "model_name": "model",
            "max_length": 8,
        }
        assert task.spec.to_dict() == {"function": made.reference}, "what is given to run() is the run's"
        steps = [step["status"] for step in run.refresh().status.transitions]
        assert steps == ["PENDING", "READY", "BUILT", "CREATED"]
        assert made.run("serve").spec.task == run.spec.task

    def test_run_over_task_over_profile_over_function(self, home: Path) -> None:
        (home / "profiles").mkdir()
        (home / "profiles" / "small.yaml").write_text("replicas: 4\nmax_length: 4\nresources: {cpu: 1}\n")
        made = function(model_name="bert")
        made.new_task("serve", profile="small", max_length=8, dtype="half")
        run = made.run("serve", dtype="FLOAT32", model_name="bert2", path=HUB + ":main")
        spec = run.spec
        assert (spec.replicas, spec.max_length, spec.dtype) == (4, 8, "float32")
        assert (spec.resources, spec.profile) == ({"cpu": {"requests": "1"}}, "small")
        assert (spec.model_name, spec.path) == ("bert2", HUB + ":main")
        assert made.refresh().spec.to_dict() == {"path": HUB, "model_name": "bert"}
        made.update_task("serve", dtype="half", replicas=1)
        assert ms.get_run(run.key).spec == spec, "a run that is there is sealed"

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"action": "build"}, "action is 'build'; it must be one of serve"),
            ({"replica": 2}, "unknown parameter replica; did you mean replicas?"),
            ({"task": "fill_mask"}, "unknown parameter task; it is said with huggingface_task"),
            ({"replicas": 0}, "replicas is 0; it must be a whole number of at least 1"),
            ({"profile": "big"}, "profile is 'big'; there are none (a file in MODELSERVE_HOME/profiles each)"),
            ({"path": "hf://org/other"},
             f"path is 'hf://org/other'; a run's path is below its function's, {HUB!r}"),
            ({"path": "store://p/model/huggingface/m"}, "path is 'store://p/model/huggingface/m', a model of a "
             "DigitalHub platform, which is not asked here; give the path that the model has there (s3://…, hf://…) "
             "or a local directory"),
            ({"target": "moon"}, "target is 'moon'; it must be one of local, kubernetes"),
            ({"target": ["local"]}, "target is ['local']; it must be one of local, kubernetes"),
            ({"local_execution": "yes"}, "local_execution is 'yes'; it must be True or False"),
            ({"args": ["--no_such"]}, "unknown flag --no_such; `modelserve serve --help` lists what there is"),
            ({"volumes": [{"volume_type": "host_path", "name": "v", "mount_path": "/v", "spec": {"path": "/nowhere"}}]},
             "volumes, v: path is '/nowhere', and there is nothing at that place on this machine"),
        ],
    )  # fmt: skip
    def test_refused_before_anything_is_stored(self, given: dict[str, Any], message: str) -> None:
        made = function()
        assert refused(made.run, **{"action": "serve", **given}) == message
        assert (kept("task"), kept("run"), nowhere.ASKED) == (0, 0, [])

    def test_a_secret_that_is_not_there_is_refused(self) -> None:
        made = function()
        ms.get_project("demo").new_secret("TOKEN", "s3cret")
        with pytest.raises(EntityNotFound, match="the project 'demo' has no secret 'OTHER'"):
            made.run("serve", secrets=["TOKEN", "OTHER"])
        assert (kept("task"), kept("run")) == (0, 0)

    @pytest.mark.parametrize("scheme", ["", "file://"])
    def test_a_path_that_is_not_there_is_refused(self, tmp_path: Path, scheme: str) -> None:
        made = function(path=f"{scheme}{tmp_path}/later")
        assert "and there is nothing at that place on this machine" in refused(made.run, "serve")
        assert (kept("task"), kept("run")) == (0, 0)
        (tmp_path / "later").mkdir()
        made.run("serve")

    def test_the_target(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = function()
        monkeypatch.setenv("KUBECONFIG", "/no/such/file")
        nobody = "kubeconfig is '/no/such/file', where there is no file; give one, or set KUBECONFIG"
        for given in ({"target": "kubernetes"}, {"target": "Kubernetes"}, {"local_execution": False}):
            assert refused(made.run, "serve", **given) == nobody
        assert catalog.list_runs() == [], "nothing is stored of a run that has no cluster"
        assert made.run("serve", target="LOCAL").spec.target == "local"
        monkeypatch.setenv("MODELSERVE_TARGET", "kubernetes")
        assert refused(made.run, "serve") == nobody
        assert made.run("serve", local_execution=True).spec.target == "local"
        assert made.run("serve", target="local").spec.target == "local"
        monkeypatch.setenv("MODELSERVE_TARGET", "")
        assert made.run("serve").spec.target == "local", "as if it were not set"
        monkeypatch.setenv("MODELSERVE_TARGET", "Local")
        assert made.run("serve").spec.target == "local"
        assert refused(made.run, "serve", target="local", local_execution=False) == (
            "target is 'local' and local_execution is False; give only one of them"
        )

    def test_what_a_cluster_knows_is_kept_and_named_once(self, caplog: pytest.LogCaptureFixture) -> None:
        run = function().run(
            "serve",
            node_selector={"gpu": "a100"},
            tolerations=[{"operator": "Exists"}],
            affinity={"node_affinity": {}},
            service_type="nodeport",
            service_name="bert",
            image="a:b",
            replicas=2,
        )
        (line,) = [one for one in caplog.records if "kept for a cluster" in one.getMessage()]
        assert line.levelno == logging.WARNING
        assert line.getMessage() == (
            "node_selector, affinity, tolerations, service_type, image: kept for a cluster; no effect on this machine"
        )
        assert (run.spec.service_type, run.spec.node_selector) == ("NodePort", [{"key": "gpu", "value": "a100"}])
        assert run.spec.tolerations == [{"operator": "Exists"}]

    def test_probabilities_of_a_task_without_classes(self, caplog: pytest.LogCaptureFixture) -> None:
        function().run("serve", huggingface_task="TEXT_EMBEDDING", return_probabilities=True)
        assert "return_probabilities has no effect: text_embedding has no classes" in caplog.text
        caplog.clear()
        function().run("serve", huggingface_task="fill_mask", return_probabilities=True)
        assert caplog.text == ""

    def test_flags_of_texts_for_a_model_of_rows(self, caplog: pytest.LogCaptureFixture) -> None:
        for kind, named in (("sklearnserve", "max_length"), ("mlflowserve", "max_length, return_probabilities")):
            made = ms.new_function("demo", "rows", kind, path="s3://bucket/model/")
            caplog.clear()
            run = made.run("serve", max_length=8, return_probabilities=True)
            assert [one.getMessage() for one in caplog.records] == [f"{named}: no effect on a model of {kind}"]
            assert run.spec.max_length == 8, "kept as it was given"
            assert refused(made.run, "serve", huggingface_task="fill_mask").startswith(
                "huggingface_task is 'fill_mask'"
            )

    def test_found(self) -> None:
        made, other = function(), function("other")
        first, second = made.run("serve"), made.run("serve")
        third = other.run("serve")
        newer = function().run("serve")
        assert ms.get_run(first.key) == first == ms.get_run(first.id) == ms.get_run(first.id[:12], "demo")
        assert made.get_run(first.id) == first == made.get_run(first.key)
        assert ms.list_runs("demo") == [newer, third, second, first]
        assert (
            made.list_runs()
            == [second, first]
            == ms.list_runs(function=made.key)
            == ms.list_runs(function=made.reference)
        )
        assert ms.list_runs("demo", function="bert") == [newer, second, first], "all its versions, newest first"
        assert ms.get_project("demo").list_runs(state="pending") == [newer, third, second, first]
        assert ms.list_runs("demo", state="RUNNING") == []
        for wrong in ("RUNING", 1):
            assert refused(ms.list_runs, "demo", state=wrong).startswith(
                f"state is {wrong!r}; it must be one of CREATED,"
            )
        with pytest.raises(EntityNotFound, match="there is no run 'nosuch' in the project demo"):
            ms.get_run("nosuch", "demo")
        with pytest.raises(EntityNotFound, match="there is no run ''"):
            ms.get_run("")
        with pytest.raises(EntityNotFound, match=f"the run {third.id} is not one of the function bert"):
            made.get_run(third.id)

    def test_of_a_function_as_it_is_now(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = function()
        run = made.run("serve")
        monkeypatch.setattr(nowhere.Nowhere, "observe", lambda self, record: transition(record, "ERROR", "it is gone"))
        assert (made.get_run(run.id).state, made.get_run(run.id).status.message) == ("ERROR", "it is gone")

    def test_several_that_begin_so(self) -> None:
        made = function()
        runs = [made.run("serve") for _ in range(17)]  # of 16 first digits
        first = max((run.id[0] for run in runs), key=[run.id[0] for run in runs].count)
        count = [run.id[0] for run in runs].count(first)
        assert refused(ms.get_run, first) == f"{count} runs begin with {first!r}; give more of the id"

    def test_one_that_cannot_be_started_is_an_error_with_its_reason(self) -> None:
        with pytest.raises(TargetError, match="there is no room"):
            function().run("serve", service_name="fails")
        (run,) = ms.list_runs("demo")
        assert (run.state, run.status.message) == ("ERROR", "there is no room")

    def test_what_the_machine_refuses_is_said_in_a_sentence(self) -> None:
        with pytest.raises(TargetError, match=r"the run could not be started: .*No space left on device"):
            function().run("serve", service_name="has-no-disk")
        (run,) = ms.list_runs("demo", state="ERROR")
        assert "No space left" in str(run.status.message)

    @pytest.mark.parametrize("ends", ["STOP", "STOPPED", "DELETING", "DELETED"])
    def test_what_others_end_while_it_is_started_stays_ended(self, monkeypatch: pytest.MonkeyPatch, ends: Any) -> None:
        def start(self: nowhere.Nowhere, record: Record) -> None:
            if ends == "DELETED":
                catalog.store().delete("run", record.project, record.id)
            else:
                catalog.store().change("run", record.project, record.id, lambda one: transition(one, ends))
            raise TargetError("there is no room")

        monkeypatch.setattr(nowhere.Nowhere, "start", start)
        with pytest.raises(TargetError, match="there is no room"):
            function().run("serve")
        found = [run.state for run in ms.list_runs("demo")]
        assert found == {"STOP": ["ERROR"], "DELETED": []}.get(ends, [ends])

    def test_one_that_ends_while_it_is_stopped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run = function().run("serve")

        def ends(self: nowhere.Nowhere, record: Record) -> Record:
            catalog.store().change("run", record.project, record.id, Change("STOPPED").of)
            return record

        monkeypatch.setattr(nowhere.Nowhere, "observe", ends)
        assert run.stop().state == "STOPPED"


ENDED: list[states.State] = ["STOPPED", "ERROR"]


@pytest.mark.parametrize("state", [state for state in states.NEXT if state != "DELETED"])
class TestStates:
    """From every state in which a run may be found."""

    def run(self, state: states.State) -> ms.Run:
        run = function().run("serve")
        catalog.store().change("run", "demo", run.id, lambda record: transition(record, state, "because"))
        return ms.get_run(run.id)

    def test_stop(self, state: states.State) -> None:
        run = self.run(state)
        assert run.stop() is run
        assert run.state == ms.get_run(run.id).state == ("DELETING" if state == "DELETING" else "STOPPED")
        assert run.stop().state == run.state, "twice is once"

    def test_delete(self, state: states.State) -> None:
        run = self.run(state)
        run.delete()
        assert run.state == "DELETED"
        assert not run.alive
        assert kept("run") == 0
        assert nowhere.ASKED[-1] == ("delete", run.id)

    def test_resume(self, state: states.State) -> None:
        run = self.run(state)
        nowhere.ASKED.clear()
        if state in (*ENDED, "RESUME"):
            run.resume()
            assert [("start", run.id)] == nowhere.ASKED
            assert run.refresh().state == "PENDING"
        else:
            with pytest.raises(IllegalTransition, match=f"the run is {state} and cannot become RESUME"):
                run.resume()
            assert (ms.get_run(run.id).state, nowhere.ASKED) == (state, [])


class TestExports:
    def test_a_function_comes_back_with_its_tasks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = function(model_name="bert", description="a model", labels=["a"])
        made.new_task("serve", replicas=2, node_selector={"gpu": "a100"}, envs={"A": "ä"})
        monkeypatch.chdir(tmp_path)
        file = made.export()
        assert file == Path(f"functions-{made.id}.yaml")
        again = ms.import_function(file, reset_id=True)
        assert again.id != made.id
        assert again.key == f"store://demo/function/huggingfaceserve/bert:{again.id}"
        assert (again.spec, again.metadata.version) == (made.spec, again.id)
        assert (again.metadata.description, again.metadata.labels) == ("a model", ["a"])
        task = again.get_task("serve")
        assert task.id != made.get_task("serve").id
        assert task.spec.to_dict() == {**made.get_task("serve").spec, "function": again.reference}
        assert ms.get_function("bert", "demo") == again
        newer = function()
        assert ms.get_function("bert", "demo") == newer
        last = ms.import_function(file, reset_id=True)
        assert ms.get_function("bert", "demo") == last, "a new version is the newest, however old its file is"

        other = ms.import_function(file, project="other")
        assert (other.project, other.id) == ("other", made.id)
        assert other.get_task("serve").spec.function == f"huggingfaceserve://other/bert:{made.id}"
        with pytest.raises(EntityExists, match=f"the project 'demo' has a function with the id '{made.id}' already"):
            ms.import_function(file)
        assert ms.get_project("other").import_function(file).id != made.id, "as recorded"
        made.delete()
        assert ms.import_function(file) == made

    def test_a_project(self, tmp_path: Path) -> None:
        project = ms.new_project("demo", description="all of it")
        made = [function(), function(), function("other")]
        made[0].new_task("serve", max_length=8)
        project.new_secret("TOKEN", "s3cret")
        file = project.export(tmp_path / "demo.yaml")
        assert "s3cret" not in file.read_text()
        assert "TOKEN" not in file.read_text()
        with pytest.raises(EntityExists, match="there is a project 'demo' already"):
            ms.import_project(file)
        project.delete()
        again = ms.import_project(file)
        assert (again.name, again.metadata.description) == ("demo", "all of it")
        assert again.list_functions(versions="all") == made[::-1]
        assert ms.get_function("bert", "demo") == made[1], "the newest is the newest"
        assert made[0].get_task("serve").spec.max_length == 8

    def test_a_run_and_a_task(self, tmp_path: Path) -> None:
        run = function().run("serve", max_length=8)
        (document,) = yaml.safe_load_all(run.export(tmp_path).read_text())
        assert document == run.to_dict()
        assert list(document) == ["project", "name", "id", "kind", "key", "metadata", "spec", "status"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"kind": "vllmserve"}, "kind is 'vllmserve'; it must be one of huggingfaceserve"),
            ({"spec": {"path": "ftp://a"}}, "path is 'ftp://a'; it must be a local path or begin with"),
            ({"spec": {"path": HUB, "replicas": 2}}, "unknown parameter replicas of a function"),
            ({"name": 1}, "is no export of an entity: Expected `str`, got `int` - at `$.name`"),
            ({"id": "../x"}, "id is '../x'; a name has"),
            ({"id": "latest"}, "id is 'latest', which stands for the newest version; give another"),
            ({"key": "store://demo/model/x/y"}, "'store://demo/model/x/y' names a model; there are"),
        ],
    )
    def test_a_file_that_is_wrong_changes_nothing(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        made = function()
        made.new_task("serve")
        file = made.export(tmp_path)
        documents = yaml.safe_load(file.read_text())
        documents[0] |= change
        file.write_text(yaml.safe_dump(documents))
        made.delete()
        with pytest.raises(ConfigError) as found:
            ms.import_function(file, project="new")
        assert message in found.value.message
        assert (kept("project"), kept("function"), kept("task")) == (1, 0, 0)

    def test_a_task_that_is_wrong_changes_nothing(self, tmp_path: Path) -> None:
        made = function()
        made.new_task("serve", replicas=2)
        file = made.export(tmp_path)
        made.delete()
        text = file.read_text()
        file.write_text(text.replace("replicas: 2", "replicas: two"))
        assert refused(ms.import_function, file) == "replicas is 'two'; it must be a whole number of at least 1"
        file.write_text(text.replace(f"function: {made.reference}", "function: huggingfaceserve://demo/other:1"))
        assert refused(ms.import_function, file) == (
            "a task in the file is of the function other, which is not in the file"
        )
        assert (kept("function"), kept("task")) == (0, 0)

    def test_what_is_no_export(self, tmp_path: Path) -> None:
        file = tmp_path / "f.yaml"
        assert refused(ms.import_function, file) == f"{file} cannot be read: No such file or directory"
        for text, message in {
            "a: [": f"{file} is no YAML: while parsing",
            "": f"{file} is no export of an entity: Expected `object`, got `null`",
            "[]": f"{file} holds no single function with its tasks; import_project reads a whole project",
        }.items():
            file.write_text(text)
            assert refused(ms.import_function, file).startswith(message)
        assert refused(ms.import_project, file) == f"{file} holds no project; import_function reads a function"
        assert refused(function().export, tmp_path / "no" / "f.yaml").endswith(
            "cannot be written: No such file or directory"
        )


class TestSecrets:
    @pytest.mark.parametrize("value", ["", "s3cret\0", 3, None])
    def test_values_that_are_none(self, value: Any) -> None:
        project = ms.get_or_create_project("demo")
        said = refused(project.new_secret, "TOKEN", value)
        assert said == "the value of the secret 'TOKEN' must be a text that is not empty, without NUL"
        assert project.list_secrets() == []

    def test_names_only(self) -> None:
        project = ms.get_or_create_project("demo")
        project.new_secret("TOKEN", "s3cret")
        assert project.list_secrets() == ["TOKEN"]
        run = function().run("serve", secrets="TOKEN")
        for shown in (
            repr(run),
            run._repr_html_(),
            str(run.to_dict()),
            repr(run.spec),
            repr(project),
            str(project.to_dict()),
        ):
            assert "s3cret" not in shown
        assert run.spec.secrets == ["TOKEN"]
        project.delete_secret("TOKEN")
        assert project.list_secrets() == []
        assert refused(project.new_secret, "a b", "x").startswith("name is 'a b'; a name has")


class TestLooks:
    def test_reprs(self) -> None:
        made = function("bert", model_name="<b>").describe(description="<script>")
        run = made.run("serve")
        assert repr(made) == f"Function(name='bert', kind='huggingfaceserve', path='{HUB}', id='{made.id}')"
        assert repr(run) == f"Run(function='bert', state='READY', id='{run.id}')"
        assert repr(ms.get_project("demo")) == "Project(name='demo')"
        assert "action='serve'" in repr(made.get_task("serve"))

    def test_html_is_escaped(self) -> None:
        project = ms.new_project("demo", description="<script>alert(1)</script> & more")
        shown = project._repr_html_()
        assert "<script>" not in shown
        assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in shown
        assert "<caption>Project</caption>" in shown
        function(path="/models/<img src=x>")
        assert "<img" not in ms.get_function("bert", "demo")._repr_html_()

    def test_fields(self) -> None:
        spec = function().spec
        assert (spec.path, spec["path"], spec.nothing, dict(spec)) == (HUB, HUB, None, spec.to_dict())
        assert "path" in dir(spec)
        with pytest.raises(KeyError):
            spec["nothing"]
        with pytest.raises(AttributeError):
            spec._repr_png_  # noqa: B018  what a notebook asks for


class TestContext:
    def test_it_is_stopped_whatever_happens(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run = function().run("serve")

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(waiting, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt), run:
            raise AssertionError("not reached")
        assert run.state == "STOPPED"
        monkeypatch.setattr(waiting, "wait", lambda *_: None)
        with pytest.raises(ZeroDivisionError), function().run("serve") as run:
            raise ZeroDivisionError
        assert run.state == "STOPPED"
        with function().run("serve") as run:
            run.delete()
        assert run.state == "DELETED"


class TestLogs:
    def test_as_a_text_and_as_lines(self) -> None:
        run = function().run("serve")
        assert run.logs() == "one\ntwo\nthree"
        assert run.logs(tail=2) == "two\nthree"
        assert list(run.logs(follow=True)) == ["one", "two", "three"]

    @pytest.mark.parametrize("tail", [-1, "3", 1.5, True])
    def test_a_tail_that_is_none(self, tail: Any) -> None:
        said = refused(function().run("serve").logs, tail=tail)
        assert said == f"tail is {tail!r}; it must be a whole number of lines, 0 or more"


def test_what_is_secret_in_a_url_is_not_shown() -> None:
    path = "https://me:hunter2@models.example/bert.zip?signature=hunter2"
    made = function(path=path)
    assert made.spec.path == path, "the server needs it"
    assert "https://models.example/bert.zip" in repr(made)
    assert "hunter2" not in repr(made) + made._repr_html_()
    assert "hunter2" not in refused(made.run, "serve", path="https://me:hunter2@models.example/other.zip")
