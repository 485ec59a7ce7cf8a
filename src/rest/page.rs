//! What a browser gets: the page at `/`, Swagger UI at `/docs`, the document at `/openapi.json`.

use axum::{
    Router,
    extract::Path,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use utoipa_swagger_ui::{Config, SwaggerFile, serve};

use super::error;

const INDEX: &str = include_str!("../../static/index.html");
/// As the repository has it, so that serving it makes nothing; a test keeps it what the code says.
const DOCUMENT: &str = include_str!("../../openapi/openapi.json");

pub(super) fn router() -> Router {
    Router::new()
        .route("/", get(index))
        .route("/openapi.json", get(document))
        .route("/docs", get(|| async { Redirect::to("/docs/") }))
        .route("/docs/", get(|| async { swagger(None) }))
        .route("/docs/{*file}", get(|Path(file): Path<String>| async { swagger(Some(file)) }))
        .method_not_allowed_fallback(error::method_not_allowed)
}

async fn index() -> impl IntoResponse {
    let policy = "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
                  img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, INDEX)
}

async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}

fn swagger(file: Option<String>) -> Response {
    let path = file.unwrap_or_else(|| "index.html".into());
    let config = Config::from("/openapi.json").try_it_out_enabled(true);
    match serve(&path, config.into()) {
        Ok(Some(SwaggerFile { bytes, content_type, .. })) => {
            let mime = HeaderValue::from_str(&content_type).unwrap_or(HeaderValue::from_static("text/plain"));
            ([(header::CONTENT_TYPE, mime)], bytes.into_owned()).into_response()
        }
        Ok(None) => error::unknown_path(&format!("/docs/{path}")),
        Err(cause) => {
            tracing::error!(%cause, "swagger ui failed");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
