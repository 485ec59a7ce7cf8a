"""Hooks of openapi.sh: what schemathesis cannot read off an OpenAPI 3.1 document."""

import schemathesis

# The document says of a stream that it is text. Here each of its events is held against the schema `Event`; frames
# without a number (resync_required and the like) are not in the log, so they have only a type.
EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {
                "if": {"required": ["seq"]},
                "then": {"$ref": "#/components/schemas/Event"},
                "else": {"required": ["type"]},
            },
        }
    },
}


@schemathesis.hook
def before_load_schema(context, raw_schema):
    # This server asks for no token, and schemathesis would make some up: who is let in is for tests/it/access.rs.
    del raw_schema["components"]["securitySchemes"]
    for operations in raw_schema["paths"].values():
        for operation in operations.values():
            del operation["security"]
            for answer in operation["responses"].values():
                if "text/event-stream" in answer.get("content", {}):
                    answer["content"]["text/event-stream"]["schema"] = EVENT


@schemathesis.hook
def before_call(context, case, kwargs):
    # mock/script answers at once; any other model that a case sets would only cost time (mock/demo) or is refused.
    if case.operation.definition.raw.get("operationId") == "set_model" and isinstance(case.body, dict):
        if case.body.get("model_id") == "mock/demo":
            case.body["model_id"] = "mock/script"
