//! The second door from outside: gRPC over HTTP/2 and gRPC-Web over HTTP/1.1. Messages go in and come out as JSON, by
//! the descriptors alone, so that no code is shared with the server but the protocol's.

use std::{pin::Pin, sync::LazyLock};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::{Buf, BufMut};
use futures_util::{Stream, StreamExt, stream};
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MethodDescriptor, SerializeOptions, prost::Message,
};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

use super::soon;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let bytes: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    DescriptorPool::decode(bytes).expect("the descriptors of the build")
});

/// A client of the service in one of its two forms.
#[derive(Clone)]
pub struct Rpc {
    base: String,
    http: reqwest::Client,
    channel: Option<Channel>,
    headers: Vec<(&'static str, String)>,
}

/// A call that was accepted: its metadata, and its messages as they come.
pub struct Call {
    pub metadata: MetadataMap,
    messages: Messages,
}

type Messages = Pin<Box<dyn Stream<Item = Result<Value, Status>> + Send>>;

impl Call {
    /// The next message; `None` at the end with status OK.
    pub async fn next(&mut self) -> Option<Result<Value, Status>> {
        soon("a message", self.messages.next()).await
    }
}

impl Rpc {
    /// gRPC over HTTP/2 with prior knowledge.
    pub fn grpc(base: &str) -> Self {
        let channel = Endpoint::from_shared(base.to_owned()).expect("an address").connect_lazy();
        Self { channel: Some(channel), ..Self::web(base) }
    }

    /// gRPC over a connection that there is.
    pub fn over(channel: Channel, base: &str) -> Self {
        Self { channel: Some(channel), ..Self::web(base) }
    }

    /// gRPC-Web over HTTP/1.1.
    pub fn web(base: &str) -> Self {
        let http = reqwest::Client::builder().tls_certs_only([]).no_proxy().http1_only();
        Self { base: base.to_owned(), http: http.build().expect("a client"), channel: None, headers: Vec::new() }
    }

    /// Sends this with every call.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// The one message of a unary call.
    pub async fn unary(&self, name: &str, request: &Value) -> Result<(Value, MetadataMap), Status> {
        let mut call = self.call(name, request).await?;
        let message = call.next().await.expect("a message or an error")?;
        assert!(call.next().await.is_none(), "a second message of a unary call");
        Ok((message, call.metadata))
    }

    /// Calls the RPC of that name.
    pub async fn call(&self, name: &str, request: &Value) -> Result<Call, Status> {
        let service = POOL.get_service_by_name("opencode.v1.OpenCodeService").expect("the service");
        let method = service.methods().find(|method| method.name() == name).expect("an RPC");
        let options = DeserializeOptions::new();
        let request = DynamicMessage::deserialize_with_options(method.input(), request, &options);
        let request = request.expect("a request of this RPC").encode_to_vec();
        self.send(format!("/opencode.v1.OpenCodeService/{name}"), request, method).await
    }

    /// Sends these bytes to that path, which may be of no RPC at all.
    pub async fn post(&self, path: &str, message: Vec<u8>) -> Result<Call, Status> {
        let service = POOL.get_service_by_name("opencode.v1.OpenCodeService").expect("the service");
        let named = service.methods().find(|method| path.ends_with(method.name()));
        let method = named.or_else(|| service.methods().next()).expect("an RPC");
        self.send(path.to_owned(), message, method).await
    }

    async fn send(&self, path: String, request: Vec<u8>, method: MethodDescriptor) -> Result<Call, Status> {
        soon("an answer", async {
            match &self.channel {
                Some(channel) => self.http2(channel.clone(), path, request, method).await,
                None => self.grpc_web(&path, &request, method).await,
            }
        })
        .await
    }

    async fn http2(
        &self,
        channel: Channel,
        path: String,
        request: Vec<u8>,
        method: MethodDescriptor,
    ) -> Result<Call, Status> {
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(|error| Status::unavailable(format!("no connection: {error}")))?;
        let path = path.parse().expect("a path");
        let mut request = tonic::Request::new(request);
        for (name, value) in &self.headers {
            request.metadata_mut().insert(*name, value.parse().expect("a value"));
        }
        let response = client.server_streaming(request, path, Raw).await?;
        let (metadata, messages, _) = response.into_parts();
        let messages = messages.map(move |message| message.map(|bytes| json(&method, &bytes)));
        let mut call = Call { metadata, messages: Box::pin(messages) };
        first_error(&mut call).await?;
        Ok(call)
    }

    async fn grpc_web(&self, path: &str, request: &[u8], method: MethodDescriptor) -> Result<Call, Status> {
        let mut body = vec![0];
        body.put_u32(request.len() as u32);
        body.put(request);
        let post = self.http.post(format!("{}{path}", self.base)).body(body);
        let mut post = post.header("content-type", "application/grpc-web+proto").header("x-grpc-web", "1");
        for (name, value) in &self.headers {
            post = post.header(*name, value);
        }
        let response = post.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/grpc-web+proto");
        if let Some(status) = Status::from_header_map(response.headers()) {
            return Err(status);
        }
        let metadata = MetadataMap::from_headers(response.headers().clone());
        let state = (Box::pin(response.bytes_stream()), Vec::<u8>::new(), method, false);
        let messages = stream::unfold(state, |(mut chunks, mut buffer, method, over)| async move {
            loop {
                if over {
                    assert!(chunks.next().await.is_none(), "something after the trailers");
                    return None;
                }
                if let Some((kind, message)) = take_frame(&mut buffer) {
                    if kind == 0 {
                        return Some((Ok(json(&method, &message)), (chunks, buffer, method, false)));
                    }
                    assert_eq!(kind, 0x80, "a frame is data or trailers");
                    let status = Status::from_header_map(&trailers(&message)).expect("a status in the trailers");
                    if status.code() == tonic::Code::Ok {
                        return None;
                    }
                    return Some((Err(status), (chunks, buffer, method, true)));
                }
                match chunks.next().await {
                    Some(Ok(chunk)) => buffer.extend_from_slice(&chunk),
                    Some(Err(error)) => panic!("the connection broke: {error}"),
                    None => panic!("the end came without trailers"),
                }
            }
        });
        let mut call = Call { metadata, messages: Box::pin(messages) };
        first_error(&mut call).await?;
        Ok(call)
    }
}

/// A unary call that failed has its status in trailers at times, without a message before it: that is its answer.
async fn first_error(call: &mut Call) -> Result<(), Status> {
    let first = call.messages.next().await;
    if let Some(Err(status)) = first {
        return Err(status);
    }
    let rest = std::mem::replace(&mut call.messages, Box::pin(stream::empty()));
    call.messages = Box::pin(stream::iter(first).chain(rest));
    Ok(())
}

/// As JSON with the proto's names, numbers as numbers, and zeros shown.
fn json(method: &MethodDescriptor, bytes: &[u8]) -> Value {
    let message = DynamicMessage::decode(method.output(), bytes).expect("a message of this RPC");
    assert_eq!(message.unknown_fields().count(), 0, "fields that are not in the proto");
    let options =
        SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false).skip_default_fields(false);
    message.serialize_with_options(serde_json::value::Serializer, &options).expect("JSON")
}

fn take_frame(buffer: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let mut head = buffer.get(..5)?;
    let (kind, length) = (head.get_u8(), head.get_u32() as usize);
    if buffer.len() < 5 + length {
        return None;
    }
    let message = buffer[5..5 + length].to_vec();
    buffer.drain(..5 + length);
    Some((kind, message))
}

fn trailers(text: &[u8]) -> HeaderMap {
    let lines = std::str::from_utf8(text).expect("text").lines().filter(|line| !line.is_empty());
    let pairs = lines.map(|line| {
        let (name, value) = line.split_once(':').expect("a header");
        assert_eq!(name, name.to_lowercase(), "names are in lower case");
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        (name, HeaderValue::from_str(value.trim()).expect("a value"))
    });
    pairs.collect()
}

/// What an error of the service says, checked against the contract.
#[derive(Debug)]
pub struct Details {
    pub reason: String,
    pub request_id: String,
    pub retryable: bool,
    pub fields: Vec<String>,
}

/// Reads the rich details of a status by hand: `google.rpc.Status` in base64.
pub fn details(status: &Status) -> Details {
    use tonic_types::StatusExt;
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "opencode.v1");
    assert!(!status.message().is_empty());
    // The same bytes have to be readable as they stand on the wire.
    assert!(STANDARD_NO_PAD.encode(status.details()).len() > 1);
    let bad = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    Details {
        reason: info.reason.clone(),
        request_id: info.metadata.get("request_id").cloned().unwrap_or_default(),
        retryable: info.metadata.get("retryable").is_some_and(|value| value == "true"),
        fields: bad.into_iter().map(|violation| violation.field).collect(),
    }
}

/// Bytes as they are.
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}
