import pytest

from shoal.errors import Forbidden
from shoal.security.permissions import PERMISSIONS, Permission, Role
from shoal.security.principals import LOOPBACK, Principal


def test_every_role_has_permissions_and_every_permission_a_role():
    assert set(PERMISSIONS) == set(Role)
    assert set().union(*PERMISSIONS.values()) == set(Permission)
    assert Role.ADMIN.permissions == set(Permission)


def test_only_an_admin_makes_keys():
    assert [role for role in Role if Permission.ADMIN in role.permissions] == [Role.ADMIN]


def test_an_application_key_only_predicts():
    assert Role.PREDICTOR.permissions == {Permission.PREDICT}
    assert Permission.PREDICT not in Role.READER.permissions


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("permission", list(Permission))
def test_require_follows_the_table(role, permission):
    principal = Principal(name="app", role=role)
    if permission in PERMISSIONS[role]:
        principal.require(permission)
        return
    with pytest.raises(Forbidden, match=f"role {role}, which does not allow to {permission}"):
        principal.require(permission)


def test_on_loopback_everybody_may_do_everything():
    for permission in Permission:
        LOOPBACK.require(permission)
