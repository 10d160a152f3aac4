"""A backend in FastAPI: its login is the credential of the hub's clients, and it decides what they may do.

    pip install fastapi uvicorn
    HOOKS_SECRET=$(openssl rand -hex 32) uvicorn fastapi_backend:app --port 3000
"""

import hashlib
import hmac
import json
import os
import secrets
import time

from fastapi import FastAPI, HTTPException, Request, Response

SECRET = os.environ["HOOKS_SECRET"].encode()
LIFETIME = 3600
PASSWORDS = {"ann": "correct horse", "bob": "battery staple"}
MEMBERS = {"room:1": {"ann", "bob"}, "room:2": {"bob"}}

app = FastAPI()
sessions = {}
messages = []


@app.post("/login")
async def log_in(request: Request, response: Response):
    body = await request.json()
    password = PASSWORDS.get(body.get("user"), "")
    if not password or not secrets.compare_digest(password, body.get("password", "")):
        raise HTTPException(401)
    session = secrets.token_urlsafe(32)
    sessions[session] = body["user"]
    response.set_cookie("session", session, httponly=True, samesite="lax", secure=request.url.scheme == "https")
    return {}


@app.get("/messages")
async def get_messages():
    return messages


async def call_of_hub(request: Request):
    """Returns the body of a call, if the hub has signed it in the last five minutes."""
    body = await request.body()
    try:
        moment, code = (part.split("=", 1)[1] for part in request.headers["x-wardcast-signature"].split(","))
        expected = hmac.new(SECRET, moment.encode() + b"." + body, hashlib.sha256).hexdigest()
        is_genuine = hmac.compare_digest(expected, code) and abs(time.time() - int(moment)) < 300
    except (KeyError, ValueError, IndexError):
        is_genuine = False
    if not is_genuine:
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
