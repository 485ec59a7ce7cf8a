use crate::domain::OpenCode;
use axum::{Router, extract::Request, response::Response};
pub(crate) fn router(_d: OpenCode, _m: usize) -> Router {
    Router::new()
}
pub(crate) async fn unknown(_r: Request) -> Response {
    Response::default()
}
