"""A short soak of real servers, and servers that lie, whom the soak has to find out."""

from benchmarks.soak import Plan, run

MEGABYTE = 2**20


def test_promotions_and_deaths_under_load_cost_no_answer(databases, monkeypatch):
    """Half a minute on each database; ten are in the benchmarks, where a limit is set to how late a promotion shows."""
    monkeypatch.setenv("SHOAL_DATABASE_URL", databases.migrated())
    report = run(Plan(seconds=30, calibration_s=2, stale_s=4, kill_s=4))
    findings = report.findings
    assert findings.examples == []
    assert findings.accepted == findings.done > 0
    assert findings.answers > findings.calls + findings.done > findings.done
    assert findings.promotions > 1
    assert findings.kills > 0
    assert findings.resets > 0
    assert report.growth_bytes < 32 * MEGABYTE


def test_servers_that_serve_old_versions_and_say_another_are_found_out():
    plan = Plan(seconds=8, calibration_s=0.5, kill_s=100, versions=4, devices=20, settle_s=5)
    report = run(plan, reference="soak:1", says=lambda version: version + 1)
    assert {"a wrong answer", "a version that is no champion any more"} <= set(report.findings.wrong)
