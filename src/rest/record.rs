//! What the record of a request cannot know by itself: the template of its route.

use axum::{
    extract::{MatchedPath, Request},
    middleware::Next,
    response::Response,
};

use crate::requests::Record;

/// Notes the template. As a layer of routes, since only what is behind the router knows which one it is.
pub(crate) async fn note(request: Request, next: Next) -> Response {
    let extensions = request.extensions();
    if let (Some(record), Some(path)) = (extensions.get::<Record>(), extensions.get::<MatchedPath>()) {
        // As the document writes wildcards.
        record.set_route(path.as_str().replace("{*", "{"));
    }
    next.run(request).await
}
