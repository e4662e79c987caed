"""For schemathesis: each test case acts in a session of its own, since some operations end theirs."""

import json
import os
import urllib.request
import uuid

import schemathesis

BASE = os.environ["LATCHKEY_BASE"]
PASSWORD = "violet anvil harbour 7"


def post(path, body):
    """The JSON that the server answers."""
    request = urllib.request.Request(BASE + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def new_credentials():
    """A new user's."""
    credentials = {"email": f"{uuid.uuid4().hex}@example.org", "password": PASSWORD}
    post("/auth/register", credentials)
    return credentials


# Whose tasks the test cases share, so that one can go on with what another has made.
SHARED = new_credentials()


@schemathesis.auth(refresh_interval=None)
class Session:
    """A bearer token that no other test case has; of a user that no other has, where the account is at stake."""

    def get(self, case, context):
        is_at_stake = context.operation.path in ("/auth/password", "/auth/delete")
        return post("/auth/login", new_credentials() if is_at_stake else SHARED)["access_token"]

    def set(self, case, data, context):
        case.headers = case.headers or {}
        case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.hook
def map_body(context, body):
    """Gives about half of the bodies what cannot be guessed: a living refresh token, the password that is asked again."""
    if not isinstance(body, dict):
        return body
    path = context.operation.path
    for member in ("current_password", "password", "refresh_token"):
        value = body.get(member)
        if path in ("/auth/register", "/auth/login") or not isinstance(value, str) or len(value) % 2:
            continue
        known = post("/auth/login", SHARED)["refresh_token"] if member == "refresh_token" else PASSWORD
        body = {**body, member: known}
    return body
