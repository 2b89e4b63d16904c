"""What has to be so in a good request to Millrace, and JSON Schema has no words for. Bad requests stay as bad as they are."""

import os
import uuid
from datetime import datetime

import schemathesis

HEADER = "Millrace-Min-Position"
# Of a write that came before. A place that the log does not have is refused, however well it is written.
POSITION = os.environ["MILLRACE_POSITION"]
# A sale in which something was requested.
SALE = os.environ["MILLRACE_SALE"]
# A key is that of one request: with another it is refused.
KEY = "Idempotency-Key"
# Where the id of a user is a number.
NUMBER_OF_USER = {"POST /checkout": "user_id", "GET /segment/user": "id", "GET /report": "user_id"}
TOPICS = POSITION[: POSITION.index(".") + 1]


@schemathesis.hook
def before_call(context, case, kwargs):
    is_good = case.meta is None or case.meta.generation.mode.is_positive
    if is_good and not (case.headers or {}).get(HEADER, TOPICS).startswith(TOPICS):
        case.headers[HEADER] = POSITION
    if is_good and KEY in (case.headers or {}):
        # Of one key the first request counts: another with the same is refused, however good it is.
        case.headers[KEY] = uuid.uuid4().hex
    if is_good and "/v1/sales/" in case.path:
        case.path_parameters["sale_id"] = SALE
    if is_good and "banners/stats" in case.path:
        put_in_order(case.query if case.method == "GET" else case.body)
    number_of_user = NUMBER_OF_USER.get(case.operation.label)
    if is_good and number_of_user in (case.query or {}):
        # It takes the user of a profile, whose id is a text, for a user of the sale, whose id is a number.
        if not str(case.query[number_of_user]).isdecimal():
            case.query[number_of_user] = 7
    if is_good and case.operation.label == "POST /v1/orders":
        case.body = written_as_whole(case.body)
    if is_good and case.operation.label == "POST /segment/user":
        case.body = one_list_or_the_other(case.body)
    if is_good and case.operation.label == "GET /report":
        # As many digits as a minute has, and one.
        case.query["date"] = "2023-08-29 10:32"


def one_list_or_the_other(change):
    """No segment may be in both lists, and one has to be in some."""
    add = change.get("add") or ["A"]
    rest = [slug for slug in change.get("del") or [] if slug not in add]
    user = change["user_id"]
    # A number that is written as one with a point is refused, and a name is no number.
    user = 7 if isinstance(user, str) else int(user)
    return {**change, "user_id": user, "add": add, "del": rest}


def put_in_order(times):
    """`from` has to be before `to`."""
    begins, ends = (datetime.fromisoformat(times[name].upper().replace("Z", "+00:00")) for name in ("from", "to"))
    if begins == ends:
        times["from"] = "1970-01-01T00:00:00Z"
    elif begins > ends:
        times["from"], times["to"] = times["to"], times["from"]


def written_as_whole(value):
    """To JSON Schema 1.0 is a whole number. Millrace refuses it: beyond 2^53 it may be another than was meant."""
    if isinstance(value, dict):
        return {name: written_as_whole(part) for name, part in value.items()}
    if isinstance(value, list):
        return [written_as_whole(part) for part in value]
    return int(value) if isinstance(value, float) else value
