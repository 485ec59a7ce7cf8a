//! The first door: REST and SSE. Every route is here; a handler parses, calls one verb, and renders.

mod accept;
mod agent;
pub(crate) mod error;
mod event;
mod extract;
mod health;
mod message;
mod model;
pub(crate) mod openapi;
mod page;
mod session;
mod shape;
mod sse;
mod turn;
mod version;

use axum::{Router, extract::DefaultBodyLimit};
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
        .routes(routes!(version::get_file_changes))
        .routes(routes!(version::list_versions))
        .routes(routes!(version::revert_files))
}

/// The REST routes, the documentation and the page.
pub(crate) fn router(domain: OpenCode, max_body_bytes: usize) -> Router {
    let (api, _) = api().split_for_parts();
    api.method_not_allowed_fallback(error::method_not_allowed)
        .layer(DefaultBodyLimit::max(max_body_bytes))
        .with_state(domain)
        .merge(page::router())
}
