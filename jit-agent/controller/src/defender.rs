//! Microsoft Defender's just-in-time API, below `/subscriptions`, over this controller: scripts,
//! cmdlets and templates that were written for Defender go on, and speak to hosts with an agent.
//!
//! A policy that is put here is kept, and brought to its hosts as a signed policy of theirs by a
//! rollout (`provision`). `initiate` submits a request to the desk, which the rules judge as any
//! other. Nothing here decides or signs. The shapes are in `jit_client::controller::defender`.

mod initiate;
mod machines;
mod path;
mod policies;
mod provision;
mod sections;
mod show;
mod standing;
mod trouble;

use axum::{
    Router,
    extract::{Path, Request, State},
    http::Method,
    middleware::map_response,
    response::Response,
    routing::any,
};
pub use provision::run as provision;
use serde_json::Value;

use self::{
    path::Place,
    trouble::{SHAPES, Trouble, azure},
};
use crate::api::{
    ApiState, MAX_BODY,
    auth::Caller,
    framed, guarded,
    input::{Call, bytes, json},
    problem::{Failure, Word},
};

/// The versions of the API that clients name.
const VERSIONS: [&str; 2] = ["2020-01-01", "2015-06-01-preview"];

/// `/subscriptions` and everything below. Names are compared without case; of the first one, the
/// usual cases are known.
pub fn router(state: &ApiState) -> Router {
    let routes = Router::new()
        .route("/subscriptions", any(subscriptions))
        .route("/subscriptions/{*rest}", any(serve))
        .route("/Subscriptions/{*rest}", any(serve));
    // Paths that are nobody's are answered as the rest of the API does it.
    framed(guarded(routes, state), state, MAX_BODY).route_layer(map_response(azure))
}

/// Which subscriptions there are: those of policies. Clients name another version of the API here.
async fn subscriptions(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    method: Method,
) -> Result<Response, Trouble> {
    match method {
        Method::GET => policies::subscriptions(&state, &caller).await,
        method => Err(Trouble::method(&call.uri, &method)),
    }
}

async fn serve(
    State(state): State<ApiState>,
    caller: Caller,
    call: Call,
    Path(rest): Path<String>,
    request: Request,
) -> Result<Response, Trouble> {
    version(call.uri.query().unwrap_or_default())?;
    let nothing = || {
        let detail = format!("there is no such resource: {}", call.uri.path());
        Trouble::new("ResourceNotFound", Failure::new(Word::NotFound, detail))
    };
    let place = Place::parse(&rest).ok_or_else(nothing)?;
    let method = request.method().clone();
    let body = bytes(request, &state).await?;
    let read = || -> Result<Value, Trouble> {
        json(&body).map_err(|why| Trouble::new("InvalidRequestContent", why.next(SHAPES)))
    };
    match (place, method) {
        (Place::List(within), Method::GET) => policies::list(&state, &caller, &call, &within).await,
        (Place::Policy(name), Method::GET) => policies::read(&state, &caller, &name).await,
        (Place::Policy(name), Method::PUT) => {
            policies::put(&state, &caller, &call, &name, &read()?, false).await
        }
        (Place::Policy(name), Method::PATCH) => {
            policies::put(&state, &caller, &call, &name, &read()?, true).await
        }
        (Place::Policy(name), Method::DELETE) => {
            policies::remove(&state, &caller, &call, &name).await
        }
        (Place::Initiate(name), Method::POST) => {
            initiate::initiate(&state, &caller, &call, &name, &read()?).await
        }
        (_, method) => Err(Trouble::method(&call.uri, &method)),
    }
}

/// Every call names the version that it is written for.
fn version(query: &str) -> Result<(), Trouble> {
    let bad = |code, why: String| {
        let next = format!("add ?api-version={} to the address", VERSIONS[0]);
        Err(Trouble::new(code, Failure::new(Word::InvalidQuery, why).next(next)))
    };
    let mut named = query.split('&').filter_map(|part| part.split_once('='));
    let Some((_, version)) = named.find(|(name, _)| name.eq_ignore_ascii_case("api-version"))
    else {
        let why = "The api-version query parameter (?api-version=) is required for all requests.";
        return bad("MissingApiVersionParameter", why.to_owned());
    };
    if VERSIONS.iter().any(|known| known.eq_ignore_ascii_case(version)) {
        return Ok(());
    }
    let why = format!(
        "The api-version '{}' is invalid. The supported versions are '{}'.",
        jit_proto::printable::clean(version, 40),
        VERSIONS.join(",")
    );
    bad("InvalidApiVersionParameter", why)
}
