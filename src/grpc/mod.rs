//! The second door: gRPC and gRPC-Web. Every RPC is here; a handler converts, calls one verb, and converts back.

mod access;
mod agent;
mod capabilities;
mod deadline;
mod error;
mod event;
mod file;
mod health;
mod ledger;
mod message;
mod model;
mod part;
mod permission;
mod process;
mod record;
mod session;
mod stream;
mod turn;
mod version;

use std::sync::OnceLock;

use axum::{
    Router,
    extract::Request,
    http::{Method, header},
    middleware,
    response::Response,
    routing::any,
};
use tonic::{Request as Call, Response as Answer, Status};
use tonic_web::GrpcWebLayer;
use tower::ServiceExt;

use crate::domain::OpenCode;
use pb::open_code_service_server::{OpenCodeService, OpenCodeServiceServer};
use stream::Streaming;

/// The generated types. They live in this door alone.
#[allow(clippy::all, dead_code, missing_docs, unreachable_pub, reason = "generated")]
pub(crate) mod pb {
    tonic::include_proto!("opencode.v1");
}

/// The descriptors of all messages, for reflection.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The service, reflection and health, with the layers that only gRPC needs.
pub(crate) fn router(domain: OpenCode, max_bytes: usize) -> Router {
    let health = tonic_health::pb::health_server::HealthServer::new(health::Probe::new(domain.clone()));
    let service = OpenCodeServiceServer::new(Service { domain }).max_decoding_message_size(max_bytes);
    let routes = tonic::service::Routes::from(Router::new()).add_service(service).add_service(health);
    let mut router = routes.prepare().into_axum_router();
    for version in ["v1", "v1alpha"] {
        router = router.route(&format!("/grpc.reflection.{version}.ServerReflection/{{method}}"), any(reflect));
    }
    router
        .fallback(no_such_method)
        .layer(middleware::from_fn(deadline::keep))
        .layer(middleware::from_fn(access::check))
        .layer(middleware::from_fn(error::finish))
        .layer(middleware::from_fn(record::note))
        .layer(GrpcWebLayer::new())
}

/// Reflection, made when somebody first asks: decoding all descriptors would be a good part of a start, and few ask.
async fn reflect(request: Request) -> Response {
    static REFLECTION: OnceLock<Router> = OnceLock::new();
    match REFLECTION.get_or_init(reflection).clone().oneshot(request).await {
        Ok(response) => response,
    }
}

fn reflection() -> Router {
    let descriptors = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let mut routes = tonic::service::Routes::from(Router::new());
    // The descriptors are compiled in: that they can be read is certain, and without them all else still works.
    match (descriptors().build_v1(), descriptors().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => routes = routes.add_service(v1).add_service(v1alpha),
        (Err(error), _) | (_, Err(error)) => tracing::error!(%error, "reflection is off"),
    }
    routes.prepare().into_axum_router().fallback(no_such_method)
}

async fn no_such_method(request: Request) -> Response {
    no_method(request.uri().path()).into_http::<axum::body::Body>()
}

/// The form of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// gRPC, which needs HTTP/2.
    Grpc,
    /// gRPC-Web, over any HTTP.
    Web,
    /// A form that is not served, such as JSON in gRPC-Web.
    Other,
}

/// The form in which a request calls; none where it is no call at all, whatever its path.
pub(crate) fn form(request: &Request) -> Option<Form> {
    let kind = request.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
    let rest = kind.strip_prefix("application/grpc")?;
    if request.method() != Method::POST {
        return None;
    }
    Some(match rest {
        "-web" | "-web+proto" | "-web-text" | "-web-text+proto" => Form::Web,
        "" => Form::Grpc,
        rest if rest.starts_with(['+', ';']) => Form::Grpc,
        _ => Form::Other,
    })
}

/// Whether a path is of a service here, so that what is no call of it can be told how to call.
pub(crate) fn is_of_a_service(path: &str) -> bool {
    let service = path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
    service.is_some_and(|name| name == "opencode.v1.OpenCodeService" || name.starts_with("grpc."))
}

/// The answer to a path that is no method.
fn no_method(path: &str) -> Status {
    Status::unimplemented(format!("there is no method {path}; reflection lists those that there are"))
}

struct Service {
    domain: OpenCode,
}

type Result<T> = std::result::Result<Answer<T>, Status>;

#[tonic::async_trait]
impl OpenCodeService for Service {
    type SendMessageStream = Streaming<pb::SendMessageResponse>;
    type StreamMessagesStream = Streaming<pb::StreamMessagesResponse>;
    type GetMessagePartStream = Streaming<pb::GetMessagePartResponse>;
    type StreamEventsStream = Streaming<pb::Event>;

    async fn health(&self, _: Call<pb::HealthRequest>) -> Result<pb::HealthResponse> {
        Ok(Answer::new(self.domain.health().await.into()))
    }

    async fn get_session(&self, _: Call<pb::GetSessionRequest>) -> Result<pb::GetSessionResponse> {
        session::get_session(&self.domain).await
    }

    async fn reset_session(&self, call: Call<pb::ResetSessionRequest>) -> Result<pb::ResetSessionResponse> {
        session::reset_session(&self.domain, call.into_inner()).await
    }

    async fn get_session_stats(&self, _: Call<pb::GetSessionStatsRequest>) -> Result<pb::GetSessionStatsResponse> {
        session::get_session_stats(&self.domain).await
    }

    async fn list_ledger(&self, call: Call<pb::ListLedgerRequest>) -> Result<pb::ListLedgerResponse> {
        ledger::list_ledger(&self.domain, call.into_inner()).await
    }

    async fn update_session(&self, call: Call<pb::UpdateSessionRequest>) -> Result<pb::UpdateSessionResponse> {
        session::update_session(&self.domain, call).await
    }

    async fn send_message(&self, call: Call<pb::SendMessageRequest>) -> Result<Self::SendMessageStream> {
        message::send_message(&self.domain, call).await
    }

    async fn list_messages(&self, call: Call<pb::ListMessagesRequest>) -> Result<pb::ListMessagesResponse> {
        message::list_messages(&self.domain, call.into_inner()).await
    }

    async fn stream_messages(&self, call: Call<pb::StreamMessagesRequest>) -> Result<Self::StreamMessagesStream> {
        message::stream_messages(&self.domain, call).await
    }

    async fn clear_messages(&self, _: Call<pb::ClearMessagesRequest>) -> Result<()> {
        message::clear_messages(&self.domain).await
    }

    async fn get_message(&self, call: Call<pb::GetMessageRequest>) -> Result<pb::GetMessageResponse> {
        message::get_message(&self.domain, call.into_inner()).await
    }

    async fn get_message_part(&self, call: Call<pb::GetMessagePartRequest>) -> Result<Self::GetMessagePartStream> {
        message::get_message_part(&self.domain, call.into_inner()).await
    }

    async fn get_turn(&self, call: Call<pb::GetTurnRequest>) -> Result<pb::GetTurnResponse> {
        turn::get_turn(&self.domain, call.into_inner()).await
    }

    async fn list_turns(&self, call: Call<pb::ListTurnsRequest>) -> Result<pb::ListTurnsResponse> {
        turn::list_turns(&self.domain, call.into_inner()).await
    }

    async fn stream_events(&self, call: Call<pb::StreamEventsRequest>) -> Result<Self::StreamEventsStream> {
        event::stream_events(&self.domain, call).await
    }

    async fn list_events(&self, call: Call<pb::ListEventsRequest>) -> Result<pb::ListEventsResponse> {
        event::list_events(&self.domain, call.into_inner()).await
    }

    async fn cancel_agent(&self, call: Call<pb::CancelAgentRequest>) -> Result<pb::CancelAgentResponse> {
        agent::cancel_agent(&self.domain, call.into_inner()).await
    }

    async fn get_agent_status(&self, _: Call<pb::GetAgentStatusRequest>) -> Result<pb::GetAgentStatusResponse> {
        agent::get_agent_status(&self.domain).await
    }

    async fn list_processes(&self, _: Call<pb::ListProcessesRequest>) -> Result<pb::ListProcessesResponse> {
        process::list_processes(&self.domain).await
    }

    async fn end_process(&self, call: Call<pb::EndProcessRequest>) -> Result<pb::EndProcessResponse> {
        process::end_process(&self.domain, call.into_inner()).await
    }

    async fn list_permissions(&self, _: Call<pb::ListPermissionsRequest>) -> Result<pb::ListPermissionsResponse> {
        permission::list_permissions(&self.domain).await
    }

    async fn reply_permission(&self, call: Call<pb::ReplyPermissionRequest>) -> Result<pb::ReplyPermissionResponse> {
        permission::reply_permission(&self.domain, call).await
    }

    async fn evaluate_permission(
        &self,
        call: Call<pb::EvaluatePermissionRequest>,
    ) -> Result<pb::EvaluatePermissionResponse> {
        permission::evaluate_permission(&self.domain, call.into_inner()).await
    }

    async fn set_model(&self, call: Call<pb::SetModelRequest>) -> Result<pb::SetModelResponse> {
        model::set_model(&self.domain, call.into_inner()).await
    }

    async fn list_models(&self, call: Call<pb::ListModelsRequest>) -> Result<pb::ListModelsResponse> {
        model::list_models(&self.domain, call.into_inner()).await
    }

    async fn get_file_changes(&self, call: Call<pb::GetFileChangesRequest>) -> Result<pb::GetFileChangesResponse> {
        version::get_file_changes(&self.domain, call.into_inner()).await
    }

    async fn list_versions(&self, call: Call<pb::ListVersionsRequest>) -> Result<pb::ListVersionsResponse> {
        version::list_versions(&self.domain, call.into_inner()).await
    }

    async fn revert_files(&self, call: Call<pb::RevertFilesRequest>) -> Result<pb::RevertFilesResponse> {
        version::revert_files(&self.domain, call.into_inner()).await
    }

    async fn list_files(&self, call: Call<pb::ListFilesRequest>) -> Result<pb::ListFilesResponse> {
        file::list_files(&self.domain, call.into_inner()).await
    }

    async fn read_file(&self, call: Call<pb::ReadFileRequest>) -> Result<pb::ReadFileResponse> {
        file::read_file(&self.domain, call.into_inner()).await
    }

    async fn write_file(&self, call: Call<pb::WriteFileRequest>) -> Result<pb::WriteFileResponse> {
        file::write_file(&self.domain, call.into_inner()).await
    }

    async fn delete_file(&self, call: Call<pb::DeleteFileRequest>) -> Result<()> {
        file::delete_file(&self.domain, call.into_inner()).await
    }

    async fn get_capabilities(&self, _: Call<pb::GetCapabilitiesRequest>) -> Result<pb::GetCapabilitiesResponse> {
        capabilities::get_capabilities(&self.domain)
    }

    async fn create_ticket(&self, call: Call<pb::CreateTicketRequest>) -> Result<pb::CreateTicketResponse> {
        capabilities::create_ticket(&self.domain, call)
    }
}
