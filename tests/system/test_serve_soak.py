"""A short soak of real servers, and servers that lie, whom the soak has to find out."""

from benchmarks.soak import Plan, run

MEGABYTE = 2**20


def test_promotions_and_deaths_under_load_cost_no_answer(databases, monkeypatch):
    """Half a minute on each of two databases: a minute in all.

    Ten are in the benchmarks, where a limit is set to how late a promotion shows. Here the machine may have other work:
    what was planned each second has to have been done in a third of them at least.
    """
    monkeypatch.setenv("SHOAL_DATABASE_URL", databases.migrated())
    plan = Plan(seconds=30, calibration_s=2, stale_s=4, kill_s=4)
    report = run(plan)
    findings = report.findings
    assert findings.examples == []
    assert findings.accepted == findings.done > 0
    assert findings.answers > findings.calls + findings.done > findings.done
    assert findings.promotions - 1 >= plan.seconds / plan.promote_s / 3  # the first was before
    assert findings.kills >= 2
    assert findings.resets > 0
    offered_per_s = plan.share * report.most_per_s
    assert plan.share == 0.8
    assert offered_per_s / 10 < report.answered_per_s <= offered_per_s + plan.callers / plan.seconds
    assert report.growth_bytes < 32 * MEGABYTE


def test_servers_that_serve_old_versions_and_say_another_are_found_out():
    plan = Plan(seconds=8, calibration_s=0.5, kill_s=100, versions=4, devices=20, settle_s=5)
    report = run(plan, reference="soak:1", says=lambda version: version + 1)
    assert {"a wrong answer", "a version that is no champion any more"} <= set(report.findings.wrong)
