//! The first door: REST and SSE. Every route is here; a handler parses, calls one verb, and renders.

mod accept;
mod agent;
pub(crate) mod error;
mod event;
mod extract;
mod file;
mod health;
mod message;
mod model;
pub(crate) mod openapi;
mod page;
mod range;
mod raw;
mod session;
mod shape;
mod sse;
mod turn;

use std::time::Duration;

use axum::{Extension, Router, extract::DefaultBodyLimit};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::domain::OpenCode;

/// All routes with a place in the OpenAPI document.
fn api() -> OpenApiRouter<OpenCode> {
    OpenApiRouter::with_openapi(openapi::info())
        .routes(routes!(health::health))
        .routes(routes!(session::get_session, session::update_session))
        .routes(routes!(session::reset_session))
        .routes(routes!(session::get_session_stats))
        .routes(routes!(message::send_message, message::list_messages, message::clear_messages))
        .routes(routes!(message::stream_messages))
        .routes(routes!(message::get_message))
        .routes(routes!(message::get_message_part))
        .routes(routes!(turn::list_turns))
        .routes(routes!(turn::get_turn))
        .routes(routes!(event::stream_events))
        .routes(routes!(agent::cancel_agent))
        .routes(routes!(agent::get_agent_status))
        .routes(routes!(agent::set_model))
        .routes(routes!(model::list_models))
        .routes(routes!(file::list_files))
        .routes(routes!(file::read_file, file::write_file, file::delete_file))
        .routes(routes!(raw::read_raw, raw::head_raw, raw::write_raw, raw::delete_raw))
}

/// The REST routes, the documentation and the page.
pub(crate) fn router(domain: OpenCode, max_body_bytes: usize, stall: Duration) -> Router {
    let (api, _) = api().split_for_parts();
    api.merge(file::fixed())
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(DefaultBodyLimit::max(max_body_bytes))
        .layer(Extension(raw::Stall(stall)))
        .with_state(domain)
        .merge(page::router())
}
