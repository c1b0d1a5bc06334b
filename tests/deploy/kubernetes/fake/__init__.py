"""A fake Kubernetes cluster over real HTTP. `cluster.py` says how a test uses it, `fates.py` what becomes of pods."""

from tests.deploy.kubernetes.fake import fates
from tests.deploy.kubernetes.fake.access import ADMIN, LIMITED
from tests.deploy.kubernetes.fake.cluster import Fake, cluster
from tests.deploy.kubernetes.fake.fates import Fate

__all__ = ["ADMIN", "LIMITED", "Fake", "Fate", "cluster", "fates"]
