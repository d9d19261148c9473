"""A feature space as metrics use it: each set's features are taken once, and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from noisereg.api import Features, Metric
from noisereg.data import unit_range
from noisereg.errors import NoiseregError
from noisereg.plugins.spec import Spec
from noisereg.store import ARRAY, Store


class Space(Features):
    """A feature space under the name it was asked for by, which remembers what it found."""

    def __init__(self, inner: Features, name: str, code: str = "") -> None:
        """``code``: what tells its code apart from another of this name, where that is not in its
        identity.
        """
        self.inner, self.name, self.identity = inner, name, inner.identity
        self.kept_by = [inner.identity, code] if code else inner.identity
        """What tells apart on disk what is taken in this space."""
        self.summary = inner.summary
        self._known: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
        self._keys: dict[int, tuple[Store, Any]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        return self._once(x, "", lambda: self._kept(x))

    def keep(self, x: Tensor, identity: Any, store: Store) -> None:
        """Keep what is taken of ``x`` from one command to the next: it can take minutes.
        ``identity``, which JSON can say, is what tells ``x`` from other samples.
        """
        self._keys[id(x)] = (store, identity)

    def _once(self, x: Tensor, key: str, compute: Callable[[], Tensor]) -> Tensor:
        # With x itself: an id is another tensor's once this one is gone.
        if (id(x), key) not in self._known:
            self._known[id(x), key] = (x, compute())
        return self._known[id(x), key][1]

    def _kept(self, x: Tensor) -> Tensor:
        if id(x) not in self._keys or self.inner.cheap:
            return self.inner(x)
        return self._stored(x, "features", {}, lambda: self.inner(x))

    def _stored(
        self, x: Tensor, name: str, what: Mapping[str, Any], compute: Callable[[], Tensor]
    ) -> Tensor:
        store, identity = self._keys[id(x)]
        key = {"features": self.kept_by, "of": identity, "n": len(x), **what}
        path = f"features/{self.name.rpartition('/')[2]}-{name}"
        return torch.from_numpy(store.cached(path, key, ARRAY, lambda: compute().cpu().numpy()))

    def statistic(
        self, x: Tensor, name: str, what: Mapping[str, Any], compute: Callable[[], Tensor]
    ) -> Tensor:
        def taken() -> Tensor:
            if id(x) not in self._keys:
                return compute()
            return self._stored(x, name, {"statistic": [name, dict(what)]}, compute)

        return self._once(x, json.dumps([name, dict(what)], sort_keys=True, default=repr), taken)

    def logits(self, features: Tensor) -> Tensor:
        try:
            return self.inner.logits(features)
        except NotImplementedError:
            raise NoiseregError(
                f"{self.name} features give no class scores; expected inception or classifier"
            ) from None

    def forget_all_but(self, x: Tensor) -> None:
        """Let go of what was found in every set but ``x``."""
        self._known = {key: value for key, value in self._known.items() if key[0] == id(x)}
        self._keys = {key: value for key, value in self._keys.items() if key == id(x)}


def space_of(metric: Metric, asked: Spec) -> Spec:
    """The space that a metric measures in: its own, which what was ``asked`` for may give
    parameters, or that.
    """
    if metric.space and metric.space not in (asked.name, asked.name.rpartition("/")[2]):
        return Spec.parse(metric.space)
    return asked


def register(features: Features, name: str) -> str:
    """Register a feature space with torch-fidelity; returns the name for its
    ``feature_extractor=``, so that any of its metrics can be had in that space, with its own code.
    """
    from torch_fidelity import FeatureExtractorBase, register_feature_extractor
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    class Extractor(FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **_: object) -> None:
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("features",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "features"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (unit_range(features(x)),)

    digest = hashlib.sha256(features.identity.encode()).hexdigest()[:8]
    registered = f"noisereg-{name.replace('/', '-')}-{digest}"
    if registered not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(registered, Extractor)
    return registered
