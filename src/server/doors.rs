//! Which door a request goes through: the language that it speaks decides, not its path. So who calls by gRPC is always
//! answered by gRPC.

use axum::{
    Router,
    extract::{Request, State},
    http::{Method, Version},
    middleware,
    response::Response,
};
use tower::ServiceExt;

use crate::{
    grpc::{self, Form},
    rest::{
        access::refuse,
        error::{must_be_posted, unknown_path, unsupported_type},
        record,
    },
};

#[derive(Clone)]
struct Doors {
    rest: Router,
    grpc: Router,
}

/// Both doors behind one router.
pub(super) fn router(rest: Router, grpc: Router) -> Router {
    // The record outermost: who is refused has asked for a route too.
    let rest = rest.fallback(no_route).layer(middleware::from_fn(refuse)).layer(middleware::from_fn(record::note));
    Router::new().fallback(enter).with_state(Doors { rest, grpc })
}

async fn enter(State(doors): State<Doors>, request: Request) -> Response {
    let door = match grpc::form(&request) {
        None => doors.rest,
        Some(Form::Grpc) if request.version() < Version::HTTP_2 => {
            return unsupported_type(
                "application/grpc needs HTTP/2 (with prior knowledge); over HTTP/1.1 call with application/grpc-web",
            );
        }
        Some(Form::Grpc | Form::Web) => doors.grpc,
        Some(Form::Other) => {
            return unsupported_type("calls are application/grpc, application/grpc-web or application/grpc-web-text");
        }
    };
    match door.oneshot(request).await {
        Ok(response) => response,
    }
}

/// What no route of REST took.
async fn no_route(request: Request) -> Response {
    let path = request.uri().path();
    if !grpc::is_of_a_service(path) {
        return unknown_path(path);
    }
    if request.method() != Method::POST {
        return must_be_posted(path);
    }
    unsupported_type("this is a gRPC method: call it with application/grpc over HTTP/2, or with application/grpc-web")
}
