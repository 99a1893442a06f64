"""Confirmed leaders in MLflow's Model Registry: one version for the same weights, and its alias."""

import json
from typing import Any, Literal

Alias = Literal["champion", "candidate"]

_DIGEST_TAG = "okddip.leader_digest"
_ALIAS_TAG = "okddip.alias"  # the alias that we gave last; somebody may have moved it since
_TOLD_TAG = "okddip.told_ms"  # when the verdict was told: an older one changes nothing
_VERSIONS_TAG = "mlflow.modelVersions"  # by which MLflow's pages lead from a model to its versions


def register(
    client: Any,
    model: Any,
    *,
    digest: str,
    name: str,
    alias: Alias,
    description: str,
    told_ms: int,
) -> None:
    """Make a logged model a version of a registered one, with an alias.

    May be applied again at any time: a version is found by the digest of its weights, and what it
    has been told already is left as it is, with all that people have done to it since.

    Args:
        client: ``MlflowClient``.
        model: ``LoggedModel``, complete.
        digest: Identifies the weights.
        name: Of the registered model; it is created if there is none.
        alias: Moves to this version. ``candidate`` also takes back the ``champion`` that an
            earlier verdict gave to these weights, and never touches another version's.
        description: Of the version.
        told_ms: When this was decided, ms since 1970.
    """
    version = _find_version(client, name, digest) or _new_version(client, model, name, digest)
    if int(version.tags.get(_TOLD_TAG, -1)) >= told_ms:
        return
    number = str(version.version)
    client.update_model_version(name, number, description)
    client.set_registered_model_alias(name, alias, number)
    other: Alias = "candidate" if alias == "champion" else "champion"
    is_ours = other == "candidate" or version.tags.get(_ALIAS_TAG) == other
    aliases = client.get_registered_model(name).aliases
    if is_ours and str(aliases.get(other)) == number:
        client.delete_registered_model_alias(name, other)
    client.set_model_version_tag(name, number, _ALIAS_TAG, alias)
    client.set_model_version_tag(name, number, _TOLD_TAG, str(told_ms))


def _find_version(client: Any, name: str, digest: str) -> Any:
    found = client.search_model_versions(f"tags.`{_DIGEST_TAG}` = '{digest}'")
    return next((version for version in found if version.name == name), None)


def _new_version(client: Any, model: Any, name: str, digest: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # Not ``models:/ID``: a store without a server would look for it in the process-wide one.
    version = client.create_model_version(
        name,
        model.artifact_location,
        model.source_run_id,
        {_DIGEST_TAG: digest},
        model_id=model.model_id,
    )
    # A server has done this by itself; a store without one has not.
    listed = json.loads(model.tags.get(_VERSIONS_TAG, "[]"))
    entry = {"name": name, "version": version.version}
    tags = {_VERSIONS_TAG: json.dumps([*listed, entry])}
    client.set_logged_model_tags(model.model_id, tags)
    return version
