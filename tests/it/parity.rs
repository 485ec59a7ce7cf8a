//! The two doors have the same operations under the same names, and the published wire is as it was.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
    field_descriptor_proto::{Label, Type},
};
use serde_json::{Value, json};
use tonic::{Code, Request, client::Grpc, codegen::http::uri::PathAndQuery, transport::Endpoint};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, ServerReflectionResponse, server_reflection_request::MessageRequest,
    server_reflection_response::MessageResponse,
};

use crate::support::{Setup, soon};

/// `GET /events` streams or answers a page, as `Accept` says: one operation, `stream_events`. gRPC has no `Accept`.
const PAGE_OF_STREAM_EVENTS: &str = "ListEvents";

/// Operations of REST alone: a file as its bytes, of any size (gRPC has messages, and ReadFile reads in pieces), and the
/// probes and the metrics (gRPC has its own health service).
const REST_ONLY: [&str; 7] = ["read_raw", "head_raw", "write_raw", "delete_raw", "livez", "readyz", "metrics"];

/// CancelAgent was published with Empty. It answers what was canceled: who expects Empty skips fields.
const CHANGED_ANSWER: (&str, &str) = ("CancelAgent", "CancelAgentResponse");

fn descriptors() -> FileDescriptorSet {
    let bytes = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    FileDescriptorSet::decode(bytes.as_slice()).expect("descriptors")
}

fn wire() -> Value {
    serde_json::from_str(include_str!("../../proto/wire.json")).expect("proto/wire.json is JSON")
}

/// All RPCs of the service, with their descriptors.
pub fn rpcs() -> BTreeMap<String, MethodDescriptorProto> {
    let services = descriptors().file.into_iter().flat_map(|file| file.service);
    let service = services.into_iter().find(|service| service.name() == "OpenCodeService").expect("OpenCodeService");
    service.method.into_iter().map(|method| (method.name().to_owned(), method)).collect()
}

#[test]
fn rpcs_and_operations_pair_by_name() {
    let document: Value = serde_json::from_str(&opencode_api::openapi()).expect("the document is JSON");
    let paths = document["paths"].as_object().expect("paths").values();
    let operations = paths.flat_map(|item| item.as_object().expect("a path item").values());
    let mut operations: BTreeSet<_> = operations.filter_map(|operation| operation["operationId"].as_str()).collect();
    for name in REST_ONLY {
        assert!(operations.remove(name), "{name} of REST_ONLY is no operation: take it out of tests/it/parity.rs");
    }
    let rpcs = rpcs();
    let served = rpcs.keys().filter(|name| *name != PAGE_OF_STREAM_EVENTS);
    let served: BTreeSet<String> = served.map(|name| snake(name)).collect();
    let served: BTreeSet<&str> = served.iter().map(String::as_str).collect();
    let one_door: Vec<_> = served.symmetric_difference(&operations).collect();
    let what = "these have one door only; both have the verb's name, `get_session` as operationId and `GetSession`";
    assert!(one_door.is_empty(), "{what} as RPC: {one_door:?}");
}

#[tokio::test]
async fn every_rpc_is_served() {
    let server = Setup::new().start();
    let base: Endpoint = server.rest.base.parse().expect("an address");
    let channel = base.connect().await.expect("the gRPC door is open");
    for name in rpcs().keys() {
        let mut client = Grpc::new(channel.clone());
        client.ready().await.expect("the gRPC door is open");
        let path = PathAndQuery::try_from(format!("/opencode.v1.OpenCodeService/{name}")).expect("a path");
        // An empty message is one of any kind, and as a stream any answer is over when its head has come.
        let codec = ProstCodec::<(), ()>::default();
        let answer = soon(name, client.server_streaming(Request::new(()), path, codec)).await;
        let says_so = answer.is_err_and(|status| status.code() == Code::Unimplemented);
        assert!(!says_so, "{name} answers UNIMPLEMENTED");
    }
}

#[test]
fn the_published_rpcs_are_as_they_were() {
    let rpcs = rpcs();
    for (name, published) in wire()["rpcs"].as_object().expect("rpcs") {
        let rpc = rpcs.get(name).unwrap_or_else(|| panic!("the RPC {name} is published: it stays"));
        let mut published = published.clone();
        if name == CHANGED_ANSWER.0 {
            published[1] = json!(CHANGED_ANSWER.1);
        }
        let streams = (rpc.client_streaming(), rpc.server_streaming());
        let found = json!([last(rpc.input_type()), last(rpc.output_type()), streams.0, streams.1]);
        assert_eq!(found, published, "{name}: what was published is never changed, only added to");
    }
}

#[test]
fn the_published_fields_are_as_they_were() {
    let messages = messages();
    for (name, published) in wire()["messages"].as_object().expect("messages") {
        let message = messages.get(name).unwrap_or_else(|| panic!("the message {name} is published: it stays"));
        for field in published.as_array().expect("fields") {
            let number = field[0].as_i64().expect("a number");
            let found = message.field.iter().find(|field| i64::from(field.number()) == number);
            let found = found.unwrap_or_else(|| panic!("{name}: the field {field} is published: it stays"));
            assert_eq!(shape(message, found), *field, "{name}: what was published is never renumbered or retyped");
        }
    }
}

#[test]
fn the_published_enums_are_as_they_were() {
    let enums = enums();
    for (name, published) in wire()["enums"].as_object().expect("enums") {
        let found = enums.get(name).unwrap_or_else(|| panic!("the enum {name} is published: it stays"));
        for value in published.as_array().expect("values") {
            let is_there = found.value.iter().any(|found| json!([found.number(), found.name()]) == *value);
            assert!(is_there, "{name}: the value {value} is published: it stays, under this number");
        }
    }
}

/// A field as `wire.json` writes it: number, name, type, label, oneof.
fn shape(message: &DescriptorProto, field: &FieldDescriptorProto) -> Value {
    let kind = match field.r#type() {
        Type::Message => format!("message:{}", last(field.type_name())),
        Type::Enum => format!("enum:{}", last(field.type_name())),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    let label = if field.label() == Label::Repeated { "repeated" } else { "optional" };
    // `optional` is a oneof of its own to the compiler, not to anybody else.
    let oneof = field.oneof_index.filter(|_| !field.proto3_optional());
    let oneof = oneof.and_then(|index| message.oneof_decl.get(usize::try_from(index).ok()?));
    json!([field.number(), field.name(), kind, label, oneof.map(|oneof| oneof.name()).unwrap_or_default()])
}

/// All messages of our package by name, those inside of others too (the entries of maps).
fn messages() -> BTreeMap<String, DescriptorProto> {
    let files = descriptors().file.into_iter().filter(|file| file.package() == "opencode.v1");
    let mut open: Vec<_> = files.flat_map(|file| file.message_type).collect();
    let mut messages = BTreeMap::new();
    while let Some(message) = open.pop() {
        open.extend(message.nested_type.clone());
        messages.insert(message.name().to_owned(), message);
    }
    messages
}

fn enums() -> BTreeMap<String, EnumDescriptorProto> {
    let files = descriptors().file.into_iter().filter(|file| file.package() == "opencode.v1");
    files.flat_map(|file| file.enum_type).map(|found| (found.name().to_owned(), found)).collect()
}

/// `.opencode.v1.Message` without what leads to it.
fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// `GetSession` as `get_session`.
pub fn snake(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// Who has no proto files asks the server, in either version of reflection.
#[tokio::test]
async fn reflection_knows_the_service() {
    let server = Setup::new().start();
    let base: Endpoint = server.rest.base.parse().expect("an address");
    let mut client = Grpc::new(base.connect().await.expect("the gRPC door is open"));
    for version in ["v1", "v1alpha"] {
        client.ready().await.expect("the gRPC door is open");
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let path = PathAndQuery::try_from(path).expect("a path");
        // Both versions have the same messages.
        let list = MessageRequest::ListServices(String::new());
        let request = ServerReflectionRequest { message_request: Some(list), ..Default::default() };
        let asked = futures_util::stream::iter([request]);
        let codec = ProstCodec::<ServerReflectionRequest, ServerReflectionResponse>::default();
        let answer = soon(version, client.streaming(Request::new(asked), path, codec)).await;
        let mut answers = answer.expect("reflection answers").into_inner();
        let answer = soon(version, answers.message()).await.expect("reflection answers").expect("an answer");
        let Some(MessageResponse::ListServicesResponse(found)) = answer.message_response else {
            panic!("{version}: {answer:?}")
        };
        let found: Vec<_> = found.service.iter().map(|service| service.name.as_str()).collect();
        for name in ["opencode.v1.OpenCodeService", "grpc.health.v1.Health"] {
            assert!(found.contains(&name), "{version} lists {found:?}");
        }
    }
}
