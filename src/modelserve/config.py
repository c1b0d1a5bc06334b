"""THE parameter table: every parameter of `modelserve serve`, once, with type, default, meaning and source.

Flags (snake_case and kebab-case), MODELSERVE_<NAME> variables, pod arguments, `--help` and docs/parameters.md derive
from the fields of `Config`. Knows no server and no model. Names and defaults are those of the two seeds and of
KServe's runtime; what differs is said in docs/kserve.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelserve.param import param

_M, _S, _T, _G, _P, _L = "Model", "Server", "Task", "Generation", "Performance", "Logging"
_R, _O = "Remote predictor", "Known from KServe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The parameters of one server, frozen after start. Values are parsed and checked by `modelserve.flags`."""

    # Model
    model_name: str = param("model", "Name of the model in the paths of the APIs.", group=_M, source="kserve")
    model_dir: str = param(
        "/mnt/models",
        "Directory or file of the model, a .zip or .tar.gz of it, or where one is: s3://bucket/folder/, "
        "https://host/model.zip, file:///…; ignored when --model_id is given.",
        group=_M,
        source="kserve",
    )
    model_format: str | None = param(
        None,
        "What the files are; told from them when not given. sklearn: one pickle, joblib or skops file. mlflow: a "
        "directory with an MLmodel file.",
        group=_M,
        choices=("huggingface", "sklearn", "mlflow"),
    )
    model_id: str | None = param(
        None, "Hugging Face model id, such as google-bert/bert-base-uncased.", group=_M, source="kserve"
    )
    model_revision: str | None = param(
        None, "Branch, tag or commit of the model on the hub.", group=_M, source="kserve"
    )
    tokenizer_revision: str | None = param(
        None,
        "Branch, tag or commit of the tokenizer; the model's revision when not given.",
        group=_M,
        source="kserve",
    )
    task: str | None = param(
        None,
        "ML task; inferred from the model's architecture when not given.",
        group=_M,
        choices=(
            "fill_mask",
            "token_classification",
            "sequence_classification",
            "text_embedding",
            "text_generation",
            "text2text_generation",
        ),
        aliases=("huggingface_task",),
        source="kserve",
    )
    backend: str = param(
        "auto",
        "What runs the forward passes.",
        group=_M,
        choices=("auto", "huggingface", "vllm", "openvino"),
        source="kserve",
    )
    dtype: str | None = param(
        None,
        "Data type of the weights in memory; float32 for encoders when not given. auto: float16 on a GPU, float32 "
        "without one. vllm on a GPU takes that of the weights.",
        group=_M,
        choices=("auto", "float16", "float32", "bfloat16"),
        synonyms={"float": "float32", "half": "float16"},
        source="kserve",
    )
    device: str = param(
        "auto",
        "Where the model runs; auto takes a GPU when there is one.",
        group=_M,
        choices=("auto", "cpu", "cuda"),
    )
    max_length: int | None = param(
        None,
        "Most tokens of one input, special tokens included; the model's own limit when not given.",
        group=_M,
        aliases=("max_model_len",),
        minimum=1,
        source="kserve",
    )
    allow_long_max_model_len: bool = param(
        False,
        "Allow --max_length above the model's own limit.",
        group=_M,
        env="ALLOW_LONG_MAX_MODEL_LEN",
        source="kserve",
    )
    trust_remote_code: bool = param(
        False, "Allow code that comes with the model to run here.", group=_M, source="kserve"
    )
    allow_pickle: bool = param(
        False,
        "Load pickled weights (pytorch_model.bin) when there is no safetensors file, pickled estimators, and MLflow "
        "models. That runs code which comes with them: only for files you trust.",
        group=_M,
    )
    # Tokenizer
    disable_lower_case: bool = param(
        False, "Keep the case of texts, whatever the tokenizer says.", group=_T, source="kserve"
    )
    disable_special_tokens: bool = param(
        False, "Encode texts without the model's special tokens.", group=_T, source="kserve"
    )
    return_token_type_ids: bool = param(
        False,
        "Feed token type ids even where the tokenizer does not list them as an input.",
        group=_T,
        source="kserve",
    )
    # Task
    return_probabilities: bool = param(False, "Answer with the probability of every class.", group=_T, source="kserve")
    return_raw_logits: bool = param(
        False,
        "Answer with the raw logits of every class.",
        group=_T,
        excludes=("return_probabilities",),
        source="kserve",
    )
    return_offsets_mapping: bool = param(
        False, "token_classification: add the character offsets of each token.", group=_T, source="kserve"
    )
    pooling: str | None = param(
        None,
        "text_embedding: pooling, instead of what the model directory says.",
        group=_T,
        choices=("mean", "cls", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean"),
    )
    normalize: bool | None = param(
        None, "text_embedding: L2-normalise (or not), instead of what the model directory says.", group=_T
    )
    prompt_name: str | None = param(
        None, "text_embedding: default prompt of the model to put before each text.", group=_T
    )
    # Generation
    max_num_seqs: int | None = param(
        None,
        "Texts that are written at once, more wait; found for the device when not given.",
        group=_G,
        minimum=1,
        source="vllm",
    )
    kv_cache_memory_bytes: int | None = param(
        None,
        "Memory for the keys and values of the texts that are written; a share of what is free when not given.",
        group=_G,
        minimum=1,
        source="vllm",
    )
    chat_template: str | None = param(
        None,
        "Chat template, instead of the tokenizer's: a Jinja file, or the template itself.",
        group=_G,
        source="vllm",
    )
    trust_request_chat_template: bool = param(False, "Allow a chat_template in requests.", group=_G, source="vllm")
    tool_call_parser: str | None = param(
        None,
        "How the model writes tool calls; found from its chat template when not given.",
        group=_G,
        choices=("hermes", "llama3_json", "pythonic", "mistral", "deepseek"),
        source="vllm",
    )
    vllm_python: str | None = param(
        None,
        "Python of the environment that has vLLM; this one when not given.",
        group=_G,
    )
    vllm_args: str = param(
        "",
        "Further arguments for vLLM, as on its own command line: --tensor_parallel_size 2. They may also stand among "
        "the flags here.",
        group=_G,
        empty=True,
    )
    # Server
    host: str = param("0.0.0.0", "Address to listen on, HTTP and gRPC.", group=_S)
    http_port: int = param(
        8080, "HTTP port; 0 takes a free one and tells it.", group=_S, minimum=0, maximum=65535, source="kserve"
    )
    grpc_port: int = param(
        8081, "gRPC port; 0 takes a free one and tells it.", group=_S, minimum=0, maximum=65535, source="kserve"
    )
    enable_grpc: bool = param(True, "Serve gRPC.", group=_S, source="kserve")
    enable_docs_url: bool = param(True, "Serve /docs.", group=_S, source="kserve")
    enable_model_control: bool = param(False, "Allow load and unload over V2 and gRPC.", group=_S)
    workers: int = param(1, "Worker processes behind one port.", group=_S, minimum=1, source="kserve")
    timeout_keep_alive: int = param(
        65, "Seconds before an idle HTTP connection is closed.", group=_S, minimum=1, source="kserve"
    )
    payload_limit: int = param(
        32 * 1024 * 1024, "Most bytes of one HTTP request body, after decompression.", group=_S, minimum=1
    )
    answer_limit: int = param(
        1024 * 1024 * 1024,
        "Most bytes of memory that one answer may take, estimated before it is computed; more is answered 413.",
        group=_S,
        minimum=1,
    )
    request_timeout: float = param(300.0, "Seconds before a request is answered 504.", group=_S, minimum=0.001)
    shutdown_timeout: float = param(30.0, "Seconds that SIGTERM leaves to requests in flight.", group=_S, minimum=0)
    liveness_timeout: float = param(
        120.0, "Seconds that one forward pass may take before liveness turns false.", group=_S, minimum=0.001
    )
    grpc_max_send_message_length: int = param(
        8388608, "Most bytes of one gRPC answer.", group=_S, minimum=1, source="kserve"
    )
    grpc_max_receive_message_length: int = param(
        8388608, "Most bytes of one gRPC request.", group=_S, minimum=1, source="kserve"
    )
    openai_route_prefix: str = param(
        "/openai",
        "Prefix of the OpenAI routes, beside the plain /v1.",
        group=_S,
        env="KSERVE_OPENAI_ROUTE_PREFIX",
        empty=True,
        source="kserve",
    )
    event_loop: str = param(
        "auto",
        "Event loop; auto is uvloop.",
        group=_S,
        choices=("auto", "asyncio", "uvloop"),
        source="kserve",
    )
    ce_merge: bool = param(
        False,
        "CloudEvents: carry the request's attributes over into the answer.",
        group=_S,
        env="CE_MERGE",
        source="kserve",
    )
    ce_type: str = param(
        "io.kserve.inference.response",
        "CloudEvents: type of the answers.",
        group=_S,
        env="CE_TYPE",
        source="kserve",
    )
    ce_source: str | None = param(
        None,
        "CloudEvents: source of the answers; io.kserve.inference.<model> when not given.",
        group=_S,
        env="CE_SOURCE",
        source="kserve",
    )
    # Performance
    max_batch_tokens: int | None = param(
        None,
        "Token budget of one forward pass, or rows of one call of an estimator; found for the device when not given.",
        group=_P,
        minimum=1,
    )
    max_queue_size: int = param(8192, "Texts or rows that may wait; more are answered 429.", group=_P, minimum=1)
    max_client_batch_size: int = param(4096, "Most texts or rows of one request.", group=_P, minimum=1)
    threads: int | None = param(
        None,
        "CPU threads of the forward passes; the cores of this machine when not given.",
        group=_P,
        minimum=1,
    )
    # Remote predictor
    predictor_host: str | None = param(
        None,
        "host:port of a server, such as Triton, that runs the model: texts are tokenised here, tensors are sent there, "
        "the answer is made here. The model has the name --model_name there too.",
        group=_R,
        source="kserve",
    )
    predictor_protocol: str = param(
        "v2",
        "Protocol of the remote predictor. Triton's are v2 and grpc-v2.",
        group=_R,
        choices=("v1", "v2", "grpc-v2"),
        aliases=("protocol",),
        source="kserve",
    )
    predictor_use_ssl: bool = param(
        False,
        "TLS to the remote predictor.",
        group=_R,
        source="kserve",
    )
    predictor_ca_file: str | None = param(
        None,
        "Authorities that the remote predictor's certificate is checked by: a PEM file, or for HTTP a directory of "
        "them; this machine's when not given.",
        group=_R,
        env="REQUESTS_CA_BUNDLE",
    )
    predictor_request_timeout_seconds: int = param(
        600, "Seconds before a request to the remote predictor is given up.", group=_R, minimum=1, source="kserve"
    )
    predictor_request_retries: int = param(
        0,
        "Further tries of a request that the remote predictor has not begun with.",
        group=_R,
        minimum=0,
        source="kserve",
    )
    enable_predictor_health_check: bool = param(
        False,
        "Ask the remote predictor every few seconds whether it is ready, and not only once a request has failed.",
        group=_R,
        source="kserve",
    )
    predictor_max_batch_size: int | None = param(
        None,
        "Most texts of one request to the remote predictor; that of Triton's model configuration when not given, and 1 "
        "where there is none.",
        group=_R,
        minimum=1,
    )
    tensor_input_names: tuple[str, ...] = param(
        (),
        "Tensors that are sent, comma separated, of input_ids, attention_mask and token_type_ids; input_ids=INPUT__0 "
        "where one has another name there. Those that the remote predictor lists when not given.",
        group=_R,
        source="kserve",
    )
    # Logging
    log_level: str = param(
        "info",
        "Log level.",
        group=_L,
        choices=("debug", "info", "warning", "error", "critical"),
        synonyms={"warn": "warning", "fatal": "critical"},
        env="KSERVE_LOGLEVEL",
        source="kserve",
    )
    log_format: str = param("text", "Form of the log lines.", group=_L, choices=("text", "json"))
    configure_logging: bool = param(
        True, "Set up logging; false leaves it to the embedding program.", group=_L, source="kserve"
    )
    log_config_file: str | None = param(
        None, "YAML or JSON logging configuration (dictConfig).", group=_L, source="kserve"
    )
    access_log_format: str | None = param(
        None,
        "Format of the request line, with {id} {api} {method} {path} {code} {texts} {tokens} {queue_ms} {inference_ms} "
        "{total_ms}.",
        group=_L,
        source="kserve",
    )
    enable_latency_logging: bool = param(True, "Log a line with its times for each request.", group=_L, source="kserve")
    disable_log_requests: bool = param(
        True, "Keep texts out of the log; an explicit false logs them.", group=_L, source="kserve"
    )
    max_log_len: int | None = param(
        None,
        "Most characters of a text in the log; the request itself is never shortened.",
        group=_L,
        minimum=0,
        source="kserve",
    )
    # Known from KServe
    max_threads: int = param(
        4,
        "Threads of KServe's gRPC executor. Accepted; gRPC runs on the event loop here.",
        group=_O,
        minimum=1,
        source="kserve",
    )
    max_asyncio_workers: int | None = param(
        None, "Threads of the event loop's default executor.", group=_O, minimum=1, source="kserve"
    )

    @property
    def http_prefixes(self) -> tuple[str, ...]:
        """Prefixes under which the OpenAI routes are served."""
        prefix = self.openai_route_prefix.strip("/")
        return (f"/{prefix}", "") if prefix else ("",)
