//! The RPCs of permissions, and their conversions.

use tonic::{Request, Response};

use super::{
    Result, pb,
    session::{page, text, time, with_cursor},
};
use crate::domain::{
    Error, EvaluatePermission, OpenCode, Permission, PermissionDecision, PermissionEvaluation, PermissionMode,
    PermissionRequested, PermissionResolved, PermissionResolver, Read, ReplyPermission, ReplyToken, Verdict,
};

pub(super) async fn list_permissions(domain: &OpenCode) -> Result<pb::ListPermissionsResponse> {
    let list = domain.list_permissions().await?;
    Ok(page(list, |permissions, pagination, as_of, as_of_seq| pb::ListPermissionsResponse {
        permissions,
        pagination,
        as_of,
        as_of_seq,
    }))
}

pub(super) async fn reply_permission(
    domain: &OpenCode,
    call: Request<pb::ReplyPermissionRequest>,
) -> Result<pb::ReplyPermissionResponse> {
    let token = reply_token(&call);
    let pb::ReplyPermissionRequest { permission_id, decision, reason } = call.into_inner();
    let decision = match pb::PermissionDecision::try_from(decision) {
        Ok(pb::PermissionDecision::AllowOnce) => PermissionDecision::AllowOnce,
        Ok(pb::PermissionDecision::AllowSession) => PermissionDecision::AllowSession,
        Ok(pb::PermissionDecision::Deny) => PermissionDecision::Deny,
        Ok(pb::PermissionDecision::Stop) => PermissionDecision::Stop,
        Ok(pb::PermissionDecision::Unspecified) => return Err(Error::field("decision", "is missing").into()),
        Err(_) => return Err(Error::field("decision", "is not a known decision").into()),
    };
    let wish = ReplyPermission { decision, reason: text(reason), token };
    let Read { value, as_of } = domain.reply_permission(&permission_id, wish).await?;
    Ok(with_cursor(pb::ReplyPermissionResponse { permission: Some(value.into()) }, as_of))
}

/// What a client shows to answer permission requests or to loosen the mode.
pub(super) fn reply_token<T>(call: &Request<T>) -> Option<ReplyToken> {
    let value = call.metadata().get("x-reply-token")?;
    Some(ReplyToken::new(String::from_utf8_lossy(value.as_bytes()).into_owned()))
}

pub(super) async fn evaluate_permission(
    domain: &OpenCode,
    wish: pb::EvaluatePermissionRequest,
) -> Result<pb::EvaluatePermissionResponse> {
    let pb::EvaluatePermissionRequest { tool_name, input, permission_mode } = wish;
    let input = serde_json::from_str(&input).map_err(|error| Error::field("input", format!("is no JSON: {error}")))?;
    let wish = EvaluatePermission { tool_name, input, permission_mode: mode(permission_mode)? };
    Ok(Response::new(domain.evaluate_permission(wish).await?.into()))
}

/// A mode of a request; none is how it is already.
pub(super) fn mode(number: i32) -> std::result::Result<Option<PermissionMode>, Error> {
    match pb::PermissionMode::try_from(number) {
        Ok(pb::PermissionMode::Unspecified) => Ok(None),
        Ok(pb::PermissionMode::Auto) => Ok(Some(PermissionMode::Auto)),
        Ok(pb::PermissionMode::Ask) => Ok(Some(PermissionMode::Ask)),
        Ok(pb::PermissionMode::ReadOnly) => Ok(Some(PermissionMode::ReadOnly)),
        Err(_) => Err(Error::field("permission_mode", "is not a known mode")),
    }
}

impl From<PermissionMode> for pb::PermissionMode {
    fn from(mode: PermissionMode) -> Self {
        match mode {
            PermissionMode::Auto => Self::Auto,
            PermissionMode::Ask => Self::Ask,
            PermissionMode::ReadOnly => Self::ReadOnly,
        }
    }
}

impl From<PermissionDecision> for pb::PermissionDecision {
    fn from(decision: PermissionDecision) -> Self {
        match decision {
            PermissionDecision::AllowOnce => Self::AllowOnce,
            PermissionDecision::AllowSession => Self::AllowSession,
            PermissionDecision::Deny => Self::Deny,
            PermissionDecision::Stop => Self::Stop,
        }
    }
}

impl From<Permission> for pb::Permission {
    fn from(permission: Permission) -> Self {
        let Permission {
            id,
            turn_id,
            message_id,
            part_index,
            tool_call_id,
            tool_name,
            description,
            grant,
            default_decision,
            requested_at,
            deadline,
            decision,
            resolved_by,
            reason,
            resolved_at,
        } = permission;
        let by = resolved_by.map_or(pb::PermissionResolver::Unspecified, Into::into);
        Self {
            id: id.to_string(),
            turn_id: turn_id.to_string(),
            message_id: message_id.map(|id| id.to_string()).unwrap_or_default(),
            part_index: part_index.map(|index| i32::try_from(index).unwrap_or(i32::MAX)),
            tool_call_id: tool_call_id.to_string(),
            tool_name,
            description,
            grant: grant.unwrap_or_default(),
            default_decision: pb::PermissionDecision::from(default_decision).into(),
            requested_at: Some(time(requested_at)),
            deadline: Some(time(deadline)),
            decision: decision.map_or(pb::PermissionDecision::Unspecified, Into::into).into(),
            resolved_by: by.into(),
            reason: reason.unwrap_or_default(),
            resolved_at: resolved_at.map(time),
        }
    }
}

impl From<PermissionRequested> for pb::PermissionRequested {
    fn from(requested: PermissionRequested) -> Self {
        let PermissionRequested { permission } = requested;
        Self { permission: Some(permission.into()) }
    }
}

impl From<PermissionResolved> for pb::PermissionResolved {
    fn from(resolved: PermissionResolved) -> Self {
        let PermissionResolved { permission_id, decision, by, reason, tool_call_id, tool_name } = resolved;
        Self {
            permission_id: permission_id.map(|id| id.to_string()).unwrap_or_default(),
            decision: pb::PermissionDecision::from(decision).into(),
            by: pb::PermissionResolver::from(by).into(),
            reason: reason.unwrap_or_default(),
            tool_call_id: tool_call_id.to_string(),
            tool_name,
        }
    }
}

impl From<PermissionResolver> for pb::PermissionResolver {
    fn from(by: PermissionResolver) -> Self {
        match by {
            PermissionResolver::Client => Self::Client,
            PermissionResolver::Timeout => Self::Timeout,
            PermissionResolver::Cancel => Self::Cancel,
            PermissionResolver::Interruption => Self::Interruption,
            PermissionResolver::NoClient => Self::NoClient,
            PermissionResolver::Rule => Self::Rule,
            PermissionResolver::Mode => Self::Mode,
        }
    }
}

impl From<PermissionEvaluation> for pb::EvaluatePermissionResponse {
    fn from(evaluation: PermissionEvaluation) -> Self {
        let PermissionEvaluation { verdict, by, reason, grant } = evaluation;
        let verdict = match verdict {
            Verdict::Allow => pb::PermissionVerdict::Allow,
            Verdict::Ask => pb::PermissionVerdict::Ask,
            Verdict::Deny => pb::PermissionVerdict::Deny,
        };
        let by = pb::PermissionResolver::from(by);
        Self { verdict: verdict.into(), by: by.into(), reason, grant: grant.unwrap_or_default() }
    }
}
