//! The first door: REST and SSE. Every route is here; a handler parses, calls one verb, and renders.

mod accept;
pub(crate) mod access;
mod agent;
mod capabilities;
pub(crate) mod error;
mod event;
mod extract;
mod file;
mod health;
mod message;
mod metrics;
mod model;
pub(crate) mod openapi;
mod page;
mod permission;
mod process;
mod range;
mod raw;
pub(crate) mod record;
mod session;
mod shape;
mod sse;
mod turn;
mod version;

use std::time::Duration;

use axum::{Extension, Router, extract::DefaultBodyLimit, middleware, routing::on};
use utoipa_axum::{PathItemExt, router::OpenApiRouter, routes};

use crate::{domain::OpenCode, requests::Counts};

/// One list, two uses: every start makes the router, and only who asks for the document makes that, since it takes
/// more time and memory than all the rest of a start.
macro_rules! api {
    ($($($resource:ident::$verb:ident),+;)+) => {
        fn served() -> Router<OpenCode> {
            let mut router = Router::new();
            $($(
                let path = routes!(@path [path()] of $resource::$verb);
                for method in routes!(@path [methods()] of $resource::$verb) {
                    let needs = middleware::from_fn_with_state(access::of(stringify!($verb)), access::allow);
                    let serve = on(method.to_method_filter(), $resource::$verb).layer(needs);
                    router = router.route(&path, serve);
                }
            )+)+
            router
        }

        fn documented() -> OpenApiRouter<OpenCode> {
            OpenApiRouter::with_openapi(openapi::info())$(.routes(routes!($($resource::$verb),+)))+
        }
    };
}

// All routes with a place in the OpenAPI document, a line for each path.
api! {
    health::health;
    capabilities::get_capabilities;
    capabilities::create_ticket;
    health::livez;
    health::readyz;
    metrics::metrics;
    session::get_session, session::update_session;
    session::reset_session;
    session::get_session_stats;
    session::list_ledger;
    message::send_message, message::list_messages, message::clear_messages;
    message::stream_messages;
    message::get_message;
    message::get_message_part;
    turn::list_turns;
    turn::get_turn;
    event::stream_events;
    agent::cancel_agent;
    agent::get_agent_status;
    agent::set_model;
    process::list_processes;
    process::end_process;
    permission::list_permissions;
    permission::evaluate_permission;
    permission::reply_permission;
    model::list_models;
    version::get_file_changes;
    version::list_versions;
    version::revert_files;
    file::list_files;
    file::read_file, file::write_file, file::delete_file;
    raw::read_raw, raw::head_raw, raw::write_raw, raw::delete_raw;
}

/// The REST routes, the documentation and the page.
pub(crate) fn router(domain: OpenCode, max_body_bytes: usize, stall: Duration, counts: Counts) -> Router {
    served()
        .merge(file::fixed())
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(DefaultBodyLimit::max(max_body_bytes))
        .layer(Extension(extract::MaxBody(max_body_bytes)))
        .layer(Extension(raw::Stall(stall)))
        .layer(Extension(counts))
        .with_state(domain)
        .merge(page::router())
}
