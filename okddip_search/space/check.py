"""From a document to a ``SearchSpec`` whose sections go together; all problems are collected."""

from okddip_search.space.baselines import baseline_config, baseline_spec
from okddip_search.space.document import Document
from okddip_search.space.foreign import respelled
from okddip_search.space.model import FORMAT, SearchSpec
from okddip_search.space.settings import OVERRULED, ResourceSettings, StudySettings
from trainer.config.strict import ConfigError, StrictModel
from trainer.config.synonyms import meant_by
from trainer.config.train import TrainConfig, unread, unread_fields
from trainer.io.text import truncate
from trainer.io.yaml import KeyPath
from trainer.registry import readers_of


def check_space(document: Document, *, is_saved: bool = False) -> SearchSpec:
    """Check a document: each section on its own, then the space as a whole.

    Args:
        document: Of a space file.
        is_saved: Whether it is the ``spec.yaml`` of a search; an earlier version may have begun it
            with fields that its method does not read, and it can be resumed all the same.

    Raises:
        UserError: With all problems.
    """
    _check_format(document)
    _check_overruled(document, is_saved)
    values = {key: value for key, value in document.values.items() if key != "format"}
    try:
        spec = SearchSpec(**values)
    except ConfigError as error:
        for path, text in error.problems:
            is_missing = len(path) == 1 and path[0] not in values
            text = f"the section '{path[0]}' is missing" if is_missing else text
            document.complain(() if is_missing else path, text + _study_hint(path, text))
        _respell(document)
    document.check()
    _check_apart(document, spec)
    if not is_saved:
        spec = spec.model_copy(update={"machine": {}})  # a copied one's says nothing about this
        _check_read(document, spec)
    document.check()
    _check_whole(document, spec)
    document.check()
    return spec


def _study_hint(path: KeyPath, text: str) -> str:
    """Return a hint for a field of ``study`` or ``resources`` that stands as a section."""
    if text != "unknown section":
        return ""
    models: dict[str, type[StrictModel]]
    models = {"study": StudySettings, "resources": ResourceSettings}
    places = [
        f"{section}.{name}"
        for section, model in models.items()
        for name in meant_by(str(path[0]))
        if name in model.model_fields
    ]
    return f" (did you mean '{places[0]}'?)" if places else ""


def _respell(document: Document) -> None:
    """Write the parameters of another tool's file as they are written here."""
    for section, fields in document.values.items():
        if section == "search" or "search" not in meant_by(section) or not isinstance(fields, dict):
            continue
        for word, raw in fields.items():
            name = next((name for name in meant_by(word) if name in TrainConfig.model_fields), word)
            if right := respelled(name, raw):
                place = right if right.startswith("trainer:") else f"search: {{{name}: {right}}}"
                document.complain((section, word), f"write it as {place}")


def _check_format(document: Document) -> None:
    """Refuse a newer version's file first: what else is strange in it is no mistake of the user."""
    written = document.values.get("format", FORMAT)
    if not isinstance(written, int) or isinstance(written, bool) or written < 1:
        document.complain(("format",), f"{written!r} is not the number of a format")
    elif written > FORMAT:
        document.complain(
            ("format",),
            f"written by a newer version of okddip-search (format {written}, this one reads "
            f"{FORMAT}): install that version, or a later one",
        )
        document.check()


def _check_overruled(document: Document, is_saved: bool) -> None:
    """Refuse a field of ``study`` that has no effect beside another one.

    An option that overrules a field of the space file removes it. So does a search directory's own
    file, in which earlier versions wrote both.
    """
    study = document.values.get("study")
    fields = study if isinstance(study, dict) else {}
    for (ruler, name), why in OVERRULED.items():
        if fields.get(ruler) is None or fields.get(name) is None:
            continue
        came_first = is_saved or document.is_overridden(("study", ruler))
        if came_first and not document.is_overridden(("study", name)):
            del fields[name]
        else:
            value = fields[name].get("type") if isinstance(fields[name], dict) else fields[name]
            document.complain(("study", name), why.format(truncate(str(value))))


def _check_apart(document: Document, spec: SearchSpec) -> None:
    """Refuse a field that is fixed and searched, where it was added last."""
    for name in spec.search.keys() & spec.trainer.keys():
        place = "trainer" if document.is_overridden(("trainer", name)) else "search"
        document.complain((place, name), "is both fixed in trainer and searched: keep one")


def _check_read(document: Document, spec: SearchSpec) -> None:
    """Refuse a field that no method reads, or that is sampled for one that does not read it."""
    confirmed = spec.confirm.methods if spec.confirm else ()
    tuned = confirmed if spec.confirm and spec.confirm.baselines == "tuned" else ()
    for path, text in unread_fields(spec.trainer, [*spec.methods, *tuned]):
        is_lent = path == ("teacher",) and set(readers_of("teacher")) & set(confirmed)
        if not is_lent:
            document.complain(("trainer", *path), text)
    trained: dict[str, set[str]] = {}  # field to the methods with which it is sampled
    for name, dimension in spec.search.items():
        trained[name] = set(spec.methods)
        for parent, wanted in dimension.when.items():
            trained[name] &= set(wanted) if parent == "method" else trained[parent]
        reading = [method for method in spec.methods if method in readers_of(name)]
        without = [method for method in spec.methods if method in trained[name] - set(reading)]
        if without:
            limit = f"; limit it with when: {{method: [{', '.join(reading)}]}}" if reading else ""
            document.complain(("search", name), unread(name, without) + limit)


def _check_whole(document: Document, spec: SearchSpec) -> None:
    """Build what a search will build, so that nothing is refused in mid search."""
    try:
        spec.make_sampler(0)
    except ValueError as error:
        place = ("searcher", "sampler") if spec.study.searcher else ("sampler",)
        document.complain(("study", *place), str(error))
    try:
        spec.make_pruner()
    except ValueError as error:
        document.complain(("study", "pruner"), str(error))
    try:
        for method in spec.methods:
            spec.example(**{"method": method} if "method" in spec.search else {})
    except ConfigError as error:
        for path, text in error.problems:
            section = ["search" if path[0] in spec.search else "trainer"] * (path[0] != "data")
            document.complain((*section, *path), text)
        return
    _check_baselines(document, spec)


def _check_baselines(document: Document, spec: SearchSpec) -> None:
    """Build every baseline of the confirmation, so that a night's search does not end with a no."""
    if spec.confirm is None:
        return
    if spec.study.budget is not None and spec.confirm.baselines == "tuned":
        text = "tuned: the searches of its own that each baseline gets do not fit into study.budget"
        document.complain(("confirm", "baselines"), text)
    for index, method in enumerate(spec.confirm.methods):
        try:
            baseline_config(method, spec.example().to_dict())
            if spec.confirm.baselines == "tuned":
                own = baseline_spec(spec, method)
                own.example()
                own.make_sampler(0)
        except ValueError as error:  # ConfigError is one, and says more
            place = ("confirm", "methods", index)
            document.complain(place, f"{method} cannot be trained: {error}")
