import asyncio

import httpx

import shoal
from shoal.server.errors import ErrorAnswers
from shoal.server.management import build
from shoal.server.request_ids import RequestIds


def test_a_fault_of_ours_tells_the_request_id_and_nothing_else(tmp_path):
    with shoal.open(tmp_path / "home") as workspace:
        app = build(workspace)

        @app.get("/broken")
        def broken() -> None:
            raise RuntimeError("secret")

        async def ask():
            transport = httpx.ASGITransport(
                app=RequestIds(ErrorAnswers(app))
            )  # raises what the application lets through
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.get("/broken", headers={"x-request-id": "one"})

        answer = asyncio.run(ask())
    assert answer.status_code == 500
    assert list(answer.json()) == ["error"]
    assert "one" in answer.json()["error"]
    assert "secret" not in answer.text
