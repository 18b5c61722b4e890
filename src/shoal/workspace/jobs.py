"""Jobs: training and scoring, wired to what they need of a workspace."""

from typing import TYPE_CHECKING

from shoal.batch.run import Scorer
from shoal.training.train import Trainer

if TYPE_CHECKING:
    from shoal.workspace.workspace import Workspace


def trainer(workspace: "Workspace") -> Trainer:
    """What fits, chooses and registers."""
    return Trainer(
        register=workspace.register,
        promote=workspace.promote,
        open_fleet=workspace.fleet,
        ledger=workspace.ledger,
        actor=workspace.settings.actor,
        home=workspace.settings.home,
        history=workspace.history,
    )


def scorer(workspace: "Workspace") -> Scorer:
    """What scores files."""
    return Scorer(
        ledger=workspace.ledger,
        open_fleet=workspace.fleet,
        serving_of=workspace.serving_of,
        find_source=workspace.source,
        actor=workspace.settings.actor,
        home=workspace.settings.home,
    )
