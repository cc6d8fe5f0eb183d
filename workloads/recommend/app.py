"""Who bought this also bought that, in Python: `wasi:http/incoming-handler` by componentize-py.

GET /?bought=NAME[&bought=NAME…]   the other products, the most often bought together first
anything else                      404; without a product: 400
"""

import json
from collections import Counter
from urllib.parse import parse_qs, urlsplit

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.types import Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam

ORDERS = [
    {"coracle", "paddle"},
    {"coracle", "paddle", "lamp"},
    {"coracle", "hat"},
    {"paddle", "lamp"},
    {"kettle", "lamp"},
]


def recommend(bought: set[str]) -> list[dict]:
    """The products that were ordered with any of `bought`, with the number of such orders."""
    counts = Counter(other for order in ORDERS if order & bought for other in order - bought)
    return [{"product": name, "orders": n} for name, n in sorted(counts.items(), key=lambda c: (-c[1], c[0]))]


def answer(target: str) -> tuple[int, object]:
    url = urlsplit(target)
    if url.path != "/":
        return 404, {"error": f"nothing at {url.path}"}
    bought = set(parse_qs(url.query).get("bought", []))
    if not bought:
        return 400, {"error": "say what was bought: /?bought=coracle"}
    return 200, {"bought": sorted(bought), "recommended": recommend(bought)}


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        status, body = answer(request.path_with_query() or "/")
        response = OutgoingResponse(Fields.from_list([("content-type", b"application/json")]))
        response.set_status_code(status)
        outgoing = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with outgoing.write() as stream:
            stream.blocking_write_and_flush(json.dumps(body).encode() + b"\n")
        OutgoingBody.finish(outgoing, None)
