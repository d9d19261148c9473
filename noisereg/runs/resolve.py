"""A configuration with nothing left on ``auto``, as config.yaml records it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from noisereg.api import Content, Dataset, Denoiser, NoiseregError, Params, Task
from noisereg.denoisers import auto_denoiser
from noisereg.diffusion.diffusion import Diffusion
from noisereg.plugins.registry import Registry
from noisereg.plugins.spec import Spec
from noisereg.runs import sampling
from noisereg.runs.config import LISTS, SECTION_KIND, Config
from noisereg.runs.pretrained import denoiser_of
from noisereg.store import digest_of


def choose_denoiser(config: Config, registry: Registry, shape: tuple[int, ...]) -> Spec:
    """The denoiser of a configuration: the one named, that of ``init``, or one that fits
    ``shape``, its parameters filled in.
    """
    if config.denoiser.name != "auto":
        return config.denoiser
    spec = denoiser_of(config.init) if config.init else Spec(name=auto_denoiser(shape))
    entry = registry.find("denoiser", spec.name)
    params = registry.params(entry, spec.params).model_dump(mode="json")
    return Spec(name=entry.recorded, params=params)


def resolve(
    config: Config,
    registry: Registry,
    dataset: Dataset | None,
    task: Task,
    diffusion: Diffusion,
    denoiser_spec: Spec,
    denoiser: Denoiser,
    images: bool = True,
) -> Config:
    """``config`` with what the built components resolved, and the sampling that goes with them.

    Raises:
        NoiseregError: for sampling settings that would sample wrongly.
    """
    resolved: dict[str, Any] = {
        "task": _recorded(config.task, task),
        "process": _recorded(config.process, diffusion.process),
        "denoiser": _recorded(denoiser_spec, denoiser),
    }
    if dataset is not None:
        resolved["data"] = _recorded(config.data, dataset)
    resolved["sample"] = sampling.resolve(config.sample, registry, diffusion, task, images)
    if config.optim.lr == "auto":
        rate = float(denoiser.default_lr)
        resolved["optim"] = config.optim.model_copy(update={"lr": rate})
    return config.model_copy(update=resolved)


def _recorded(spec: Spec, built: Any) -> Spec:
    """The spec with the parameters that the built component resolved."""
    if not isinstance(built.params, Params):
        return spec
    return Spec(name=spec.name, params=built.params.model_dump(mode="json"))


SAMPLING = ("noise", "process", "denoiser", "task", "data")
"""The components of training by which samples are drawn, too; of the data what decodes them."""


def component_records(
    config: Config, registry: Registry, sections: Collection[str] = tuple(SECTION_KIND)
) -> dict[str, dict[str, Any]]:
    """Qualified name, revision and distribution version of each component of ``sections``, and
    the SHA-256 of the files that make their numbers (:data:`noisereg.api.ContentPath`), for
    environment.json.

    Raises:
        NoiseregError: for such a file that cannot be read.
    """
    named: dict[str, tuple[Any, Spec]] = {}
    for section in sections:
        value, kind = getattr(config, section), SECTION_KIND[section]
        for index, spec in enumerate(value if section in LISTS else [value]):
            named[f"{section}.{index}" if section in LISTS else section] = (kind, spec)
    records: dict[str, dict[str, Any]] = {}
    for key, (kind, spec) in named.items():
        if spec.name not in ("none", "auto"):
            entry = registry.find(kind, spec.name)
            records[key] = {
                "name": entry.qualified,
                "revision": entry.component.revision,
                "version": entry.version,
            }
            if files := _contents(entry.component.params, spec.params):
                records[key]["files"] = files
    return records


def _contents(params: type[Params], given: Mapping[str, Any]) -> dict[str, str]:
    """By parameter, the SHA-256 of what is at each path that is one of content."""
    return {
        name: _sha256(Path(given[name]))
        for name, field in params.model_fields.items()
        if given.get(name) and _is_content(field.annotation, field.metadata)
    }


def _is_content(annotation: Any, metadata: Iterable[Any] = ()) -> bool:
    """Whether an annotation has the mark, itself or a member of a union."""
    if Content in [*metadata, *getattr(annotation, "__metadata__", ())]:
        return True
    union = get_origin(annotation) in (Union, UnionType)
    return union and any(map(_is_content, get_args(annotation)))


def _sha256(path: Path) -> str:
    """Of a file, or of the files in a folder by name and content, but for hidden ones, which
    others put there.
    """
    path = path.expanduser()
    if not path.is_dir():
        return _of_file(path)
    found = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    lines = [
        f"{name} {_of_file(file)}"
        for name, file in sorted(found.items())
        if not any(part.startswith(".") for part in name.split("/"))
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _of_file(path: Path) -> str:
    try:
        return digest_of(path)
    except OSError as error:
        raise NoiseregError(f"{path} cannot be read ({error.strerror})") from None


Records = Mapping[str, Mapping[str, Any]]
"""What :func:`component_records` gives."""


def check_contents_of(old: Records, new: Records) -> None:
    """
    Raises:
        NoiseregError: if a file that makes a component's numbers has another content than when the
            run was started.
    """
    for key, was in old.items():
        for name, digest in was.get("files", {}).items():
            now = new.get(key, {}).get("files", {}).get(name, digest)
            if now != digest:
                raise NoiseregError(
                    f"{was['name']}: the content of `{name}` is not what this run was trained "
                    f"with (SHA-256 {now[:12]}… in place of {digest[:12]}…); put the old one "
                    "back, or start a new run"
                )


def revised(old: Records, new: Records) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Each component whose numbers have changed since the run was started: its record of then and
    of now.
    """
    for key, was in old.items():
        now = new.get(key)
        if now and now["revision"] != was["revision"]:
            yield was, now


def check_revisions(old: Records, new: Records) -> None:
    """
    Raises:
        NoiseregError: if a component's numbers have changed since the run was started.
    """
    for was, now in revised(old, new):
        raise NoiseregError(
            f"{was['name']} was revision {was['revision']} (version {was['version']}) when "
            f"this run was started and is now revision {now['revision']} (version "
            f"{now['version']}): its numbers differ; install that version, or start a new run"
        )
