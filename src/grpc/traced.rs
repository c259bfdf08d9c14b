//! What a call was and became, in the words of OpenTelemetry's conventions for gRPC servers:
//! <https://opentelemetry.io/docs/specs/semconv/rpc/grpc/>. Nothing of a client's making gets into a span.

use std::borrow::Cow;

use tonic::Code;

use super::status;
use crate::{
    service::Timeline,
    trace::{Attribute, Outcome, Value},
};

/// Where the time of a call's photos or questions went; travels with its answer.
#[derive(Clone)]
pub(super) struct Timelines(pub(super) Vec<Timeline>);

/// A call of `method`, a full name, that ended with `code`.
pub(super) fn outcome(method: Cow<'static, str>, code: Code) -> Outcome {
    let failed = fails(code);
    let mut attributes: Vec<Attribute> = vec![
        ("rpc.system.name", Value::Text("grpc".into())),
        ("rpc.method", Value::Text(method.clone())),
        ("rpc.response.status_code", Value::Text(status::name(code).into())),
    ];
    if failed {
        attributes.push(("error.type", Value::Text(status::name(code).into())));
    }
    Outcome { name: method, attributes, failed }
}

/// The statuses that the conventions lay at a server's door.
fn fails(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}
