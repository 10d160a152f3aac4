"""A backend in FastAPI: its login is the credential of the hub's clients, and it decides what they may do.

    pip install fastapi uvicorn
    HOOKS_SECRET=$(openssl rand -hex 32) uvicorn fastapi_backend:app --port 3000

It keeps everything in memory, so run one process of it; several need a database.
"""

import hashlib
import hmac
import json
import os
import secrets
import time

from fastapi import FastAPI, HTTPException, Request, Response

SECRET = os.environ["HOOKS_SECRET"].encode()
# Seconds until the hub asks again whether a session or a subscription may go on.
LIFETIME = int(os.environ.get("LIFETIME", "3600"))
# Maximum ids of events that are remembered.
MAX_HANDLED = 10_000
PASSWORDS = {"ann": "correct horse", "bob": "battery staple"}
MEMBERS = {"room:1": {"ann", "bob"}, "room:2": {"bob"}}

app = FastAPI()
sessions = {}
messages = []
# What the events of the hub say: the user of each connection, the milliseconds that a user was connected, the rooms with
# subscribers, and who left a room while the connection went on.
online = {}
connected_ms = {}
active_rooms = set()
departures = []
# Ids of handled events, the oldest first.
handled = {}


@app.post("/login")
async def log_in(request: Request, response: Response):
    body = await request.json()
    password = PASSWORDS.get(body.get("user"), "")
    if not password or not secrets.compare_digest(password.encode(), str(body.get("password", "")).encode()):
        raise HTTPException(401)
    session = secrets.token_urlsafe(32)
    sessions[session] = body["user"]
    response.set_cookie("session", session, httponly=True, samesite="lax", secure=request.url.scheme == "https")
    return {}


def user_of(request: Request):
    user = sessions.get(request.cookies.get("session"))
    if user is None:
        raise HTTPException(401)
    return user


@app.post("/logout")
async def log_out(request: Request):
    user_of(request)
    del sessions[request.cookies["session"]]
    return {}


@app.post("/leave")
async def leave_room(request: Request):
    user = user_of(request)
    MEMBERS.get((await request.json()).get("room"), set()).discard(user)
    return {}


@app.get("/messages")
async def get_messages():
    return messages


@app.get("/activity")
async def get_activity():
    return {"online": sorted(online.values()), "connected_ms": connected_ms, "rooms": sorted(active_rooms),
            "departures": departures}


def is_from_hub(secret: bytes, signature: str, body: bytes) -> bool:
    parts = [part.split("=", 1) for part in signature.split(",") if "=" in part]
    sent = next((value for name, value in parts if name == "t" and value.isdigit()), "0")
    expected = hmac.new(secret, sent.encode() + b"." + body, hashlib.sha256).hexdigest()
    is_signed = any(name == "v1" and hmac.compare_digest(value.encode(), expected.encode()) for name, value in parts)
    return is_signed and abs(time.time() - int(sent)) < 300


async def call_of_hub(request: Request):
    """Returns the body of a call, if the hub has signed it in the last five minutes."""
    body = await request.body()
    if not is_from_hub(SECRET, request.headers.get("x-wardcast-signature", ""), body):
        raise HTTPException(401)
    return json.loads(body)


def error(code, message):
    return {"error": {"code": code, "message": message}}


@app.post("/hooks/connect")
async def connect(request: Request):
    await call_of_hub(request)
    session = request.cookies.get("session")
    if session not in sessions:
        return error(401, "log in")
    user = sessions[session]
    # The session is in the meta of every later call.
    return {"result": {"user": user, "expire_at": int(time.time()) + LIFETIME, "data": {"hello": user},
                       "meta": {"session": session}}}


@app.post("/hooks/refresh")
async def refresh(request: Request):
    call = await call_of_hub(request)
    if call["meta"]["session"] not in sessions:
        return {"result": {"expired": True}}
    return {"result": {"expire_at": int(time.time()) + LIFETIME}}


@app.post("/hooks/subscribe")
async def subscribe(request: Request):
    call = await call_of_hub(request)
    if call["user"] not in MEMBERS.get(call["channel"], ()):
        return error(403, "not a member")
    return {"result": {"expire_at": int(time.time()) + LIFETIME}}


@app.post("/hooks/sub_refresh")
async def sub_refresh(request: Request):
    call = await call_of_hub(request)
    if call["user"] not in MEMBERS.get(call["channel"], ()):
        return {"result": {"expired": True}}
    return {"result": {"expire_at": int(time.time()) + LIFETIME}}


@app.post("/hooks/publish")
async def publish(request: Request):
    call = await call_of_hub(request)
    if call["user"] not in MEMBERS.get(call["channel"], ()):
        return error(403, "not a member")
    if not isinstance(call.get("data"), str) or len(call["data"]) > 200:
        return error(400, "a message is a text of at most 200 characters")
    return {"result": {"data": {"from": call["user"], "text": call["data"].strip()}}}


@app.post("/hooks/rpc")
async def rpc(request: Request):
    call = await call_of_hub(request)
    if call["method"] == "rooms":
        return {"result": {"data": sorted(room for room, users in MEMBERS.items() if call["user"] in users)}}
    return error(404, "no such method")


@app.post("/hooks/send")
async def send(request: Request):
    call = await call_of_hub(request)
    messages.append({"user": call["user"], "data": call.get("data")})
    return {"result": {}}


@app.post("/hooks/events")
async def events(request: Request):
    call = await call_of_hub(request)
    for event in call["events"]:
        # The hub repeats an event if it did not get the answer.
        if event["id"] in handled:
            continue
        handled[event["id"]] = None
        if len(handled) > MAX_HANDLED:
            del handled[next(iter(handled))]
        handle_event(event)
    return {}


def handle_event(event):
    match event["type"]:
        case "connect":
            online[event["client"]] = event["user"]
        # After the failure of a node the end of a connection may have two events, which have different ids.
        case "disconnect" if event["client"] in online:
            user = online.pop(event["client"])
            connected_ms[user] = connected_ms.get(user, 0) + event["time"] - event["connected_at"]
        case "unsubscribe":
            departures.append({"user": event["user"], "room": event["channel"]})
        case "occupied":
            active_rooms.add(event["channel"])
        case "vacated":
            active_rooms.discard(event["channel"])
