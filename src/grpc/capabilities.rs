//! The RPCs of capabilities and tickets, and their conversions.

use tonic::{Request, Response};

use super::{Result, pb, session::time};
use crate::domain::{Capabilities, CreateTicket, OpenCode, Sandbox, Ticket};

pub(super) fn get_capabilities(domain: &OpenCode) -> Result<pb::GetCapabilitiesResponse> {
    Ok(Response::new(domain.get_capabilities().into()))
}

pub(super) fn create_ticket(
    domain: &OpenCode,
    call: Request<pb::CreateTicketRequest>,
) -> Result<pb::CreateTicketResponse> {
    let origin = call.metadata().get("origin").and_then(|origin| origin.to_str().ok()).map(str::to_owned);
    let pb::CreateTicketRequest { path } = call.into_inner();
    let Ticket { ticket, path, expires_at } = domain.create_ticket(CreateTicket { path, origin })?;
    Ok(Response::new(pb::CreateTicketResponse { ticket, path, expires_at: Some(time(expires_at)) }))
}

impl From<Capabilities> for pb::GetCapabilitiesResponse {
    fn from(capabilities: Capabilities) -> Self {
        let Capabilities { version, features, limits, sandbox: Sandbox { kind, active } } = capabilities;
        let limits = limits.into_iter().map(|(name, limit)| (name, i64::try_from(limit).unwrap_or(i64::MAX)));
        Self {
            version,
            features: features.into_iter().collect(),
            limits: limits.collect(),
            sandbox: Some(pb::Sandbox { kind, active }),
        }
    }
}
