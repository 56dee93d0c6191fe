"""Profiling and step times over HTTP."""

from kvasir.entrypoints.http.settings import ServerSettings
from tests.http.fake_engine import FakeEngine
from tests.http.live import CLIENT, serving


def test_start_and_stop():
    engine = FakeEngine()
    with serving(engine, ServerSettings(profile=True)) as live:
        stopped = CLIENT.post(f"{live.url}/stop_profile")
        assert stopped.status_code == 400 and stopped.json()["error"]["message"].startswith("no profile is running")
        assert CLIENT.post(f"{live.url}/start_profile").json() == {
            "profiling": True
        }  # without a body, as vLLM takes it
        assert engine.profile_steps is None
        assert CLIENT.post(f"{live.url}/start_profile", json={"num_steps": 7}).status_code == 200
        assert engine.profile_steps == 7
        assert CLIENT.post(f"{live.url}/stop_profile").json() == {"profiling": False, "file": "/traces/a.json"}
        wrong = CLIENT.post(f"{live.url}/start_profile", json={"num_steps": "many"})
        assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "num_steps"


def test_not_without_a_folder():
    with serving(FakeEngine()) as live:
        assert CLIENT.post(f"{live.url}/start_profile").status_code == 404


def test_step_times_are_switched():
    with serving(FakeEngine()) as live:
        url = f"{live.url}/v1/engine/step_times"
        assert CLIENT.post(url).json() == {"on": True}
        assert CLIENT.post(url, json={"on": False}).json() == {"on": False}
        assert CLIENT.post(url, json={"on": "yes"}).status_code == 400
    with serving(FakeEngine(), ServerSettings(api_keys=("k",), profile=True)) as live:
        for path in ("/v1/engine/step_times", "/start_profile", "/stop_profile"):
            assert CLIENT.post(live.url + path).status_code == 401


def test_where_there_are_keys_it_takes_an_admin_s():
    bearer = lambda key: {"Authorization": f"Bearer {key}"}
    paths = ("/v1/engine/step_times", "/start_profile", "/stop_profile")
    keys = ServerSettings(api_keys=("k" * 16,), admin_keys=("a" * 16,), profile=True)
    with serving(FakeEngine(), keys) as live:
        assert [CLIENT.post(live.url + p, headers=bearer("k" * 16)).status_code for p in paths] == [403] * 3
        assert [CLIENT.post(live.url + p, headers=bearer("a" * 16)).status_code for p in paths] == [200] * 3
    with serving(FakeEngine(), ServerSettings(api_keys=("k" * 16,), profile=True)) as live:
        assert [CLIENT.post(live.url + p, headers=bearer("k" * 16)).status_code for p in paths] == [404] * 3
