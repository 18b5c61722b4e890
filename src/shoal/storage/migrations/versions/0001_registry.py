"""The registry: fleets, snapshots, models, aliases and the audit."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

APPEND_ONLY = ("audit", "alias_changes")


def upgrade() -> None:
    """Make the registry's tables; what is append-only refuses anything else."""
    op.create_table(
        "audit",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=True),
        sa.Column("previous", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_object"), "audit", ["object"])
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )
    op.create_table(
        "fleets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("folded_name", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("latest", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleets")),
        sa.UniqueConstraint("folded_name", name=op.f("uq_fleets_folded_name")),
    )
    op.create_table(
        "snapshots",
        sa.Column("fleet_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("model_count", sa.Integer(), nullable=False),
        sa.Column("new_models", sa.Integer(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("lineage", sa.Text(), nullable=False),
        sa.Column("run", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("collected_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["fleet_id"], ["fleets.id"], name=op.f("fk_snapshots_fleet_id_fleets")),
        sa.PrimaryKeyConstraint("fleet_id", "version", name=op.f("pk_snapshots")),
    )
    op.create_table(
        "alias_changes",
        sa.Column("fleet_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("move", sa.Text(), nullable=False),
        sa.Column("before", sa.Integer(), nullable=True),
        sa.Column("after", sa.Integer(), nullable=False),
        sa.Column("beneath", sa.Integer(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["fleet_id", "after"],
            ["snapshots.fleet_id", "snapshots.version"],
            name=op.f("fk_alias_changes_fleet_id_after_snapshots"),
        ),
        sa.PrimaryKeyConstraint("fleet_id", "alias", "number", name=op.f("pk_alias_changes")),
    )
    op.create_table(
        "aliases",
        sa.Column("fleet_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("changes", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["fleet_id", "version"],
            ["snapshots.fleet_id", "snapshots.version"],
            name=op.f("fk_aliases_fleet_id_version_snapshots"),
        ),
        sa.PrimaryKeyConstraint("fleet_id", "alias", name=op.f("pk_aliases")),
    )
    op.create_table(
        "models",
        sa.Column("fleet_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key_text", sa.Text(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("family", sa.Text(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("trained_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["fleet_id", "version"],
            ["snapshots.fleet_id", "snapshots.version"],
            name=op.f("fk_models_fleet_id_version_snapshots"),
        ),
        sa.PrimaryKeyConstraint("fleet_id", "key_text", "level", "version", name=op.f("pk_models")),
    )
    op.execute("INSERT INTO audit_head (id, number, digest) VALUES (1, 0, '')")
    for table in APPEND_ONLY:
        for statement in _append_only(table, op.get_bind().dialect.name):
            op.execute(statement)


def _append_only(table: str, dialect: str) -> list[str]:
    """Triggers that refuse to change or remove rows of the table."""
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER {table}_refuse_{action} BEFORE {action} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            for action in ("update", "delete")
        ]
    refuse = f"$$ BEGIN RAISE integrity_constraint_violation USING MESSAGE = '{table} is append-only'; END $$"
    when = f"BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} FOR EACH STATEMENT"
    return [
        f"CREATE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql AS {refuse}",
        f"CREATE TRIGGER {table}_refuse {when} EXECUTE FUNCTION {table}_refuse()",
    ]
