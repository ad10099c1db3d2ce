//! Refusals as Azure writes them: `{"error": {"code", "message", ...}}`.

use axum::{
    http::{HeaderValue, Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use jit_client::controller::defender::{ErrorAnswer, ErrorBody, Mistake};

use crate::{
    api::problem::{Failure, Word},
    desk::DeskError,
    store::StoreError,
};

/// What to do about a call that is not one of Defender's.
pub(super) const SHAPES: &str =
    "compare it with Microsoft's description of jitNetworkAccessPolicies, or with docs/defender.md";

/// A refusal with Azure's word for it.
pub(super) struct Trouble {
    code: &'static str,
    failure: Failure,
}

/// Azure's word, on its way to the layer that writes the body.
#[derive(Clone)]
struct Code(&'static str);

impl Trouble {
    pub(super) const fn new(code: &'static str, failure: Failure) -> Self {
        Self { code, failure }
    }

    /// The path has no such method.
    pub(super) fn method(uri: &Uri, method: &Method) -> Self {
        let detail = format!("{} has no {method}", uri.path());
        Self::new("MethodNotAllowed", Failure::new(Word::Method, detail).next(SHAPES))
    }

    /// There is no such policy, or the caller may not see it.
    pub(super) fn no_policy(key: &str) -> Self {
        Self::new("ResourceNotFound", Failure::not_found("policy", key))
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self { code: code(failure.parts().status), failure }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Failure::from(error).into()
    }
}

impl From<DeskError> for Trouble {
    fn from(error: DeskError) -> Self {
        Failure::from(error).into()
    }
}

impl From<Mistake> for Trouble {
    fn from(Mistake { place, why }: Mistake) -> Self {
        Self::new("InvalidRequestContent", Failure::field(&place, why))
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let mut response = self.failure.into_response();
        response.extensions_mut().insert(Code(self.code));
        response
    }
}

/// Azure's word for a refusal that has none of its own.
fn code(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "AuthenticationFailed",
        StatusCode::FORBIDDEN => "AuthorizationFailed",
        StatusCode::NOT_FOUND => "ResourceNotFound",
        StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowed",
        StatusCode::CONFLICT => "Conflict",
        StatusCode::PRECONDITION_FAILED => "PreconditionFailed",
        StatusCode::PAYLOAD_TOO_LARGE => "RequestContentTooLarge",
        StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
        StatusCode::GATEWAY_TIMEOUT => "GatewayTimeout",
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => "ServiceUnavailable",
        status if status.is_server_error() => "InternalServerError",
        _ => "BadRequest",
    }
}

/// The outermost layer: a problem of this API as Azure writes it.
pub(super) async fn azure(response: Response) -> Response {
    let Some(failure) = response.extensions().get::<Failure>() else { return response };
    let parts = failure.parts();
    let own = response.extensions().get::<Code>().map(|own| own.0);
    let none = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let error = ErrorBody {
        code: own.unwrap_or_else(|| code(parts.status)).to_owned(),
        message: parts.detail.clone(),
        target: none(&parts.field),
        details: vec![ErrorBody {
            code: parts.word.clone(),
            message: parts.next.clone(),
            target: None,
            details: Vec::new(),
        }],
    };
    let body = serde_json::to_vec(&ErrorAnswer { error }).unwrap_or_default();
    // What is wrong in a body is 400 there.
    let status = match parts.status {
        StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
        status => status,
    };
    let (mut head, _) = response.into_parts();
    head.status = status;
    head.headers.remove("content-length");
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(head, body.into())
}
