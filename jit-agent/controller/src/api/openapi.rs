//! The description of the API: OpenAPI 3.1, made from the handlers. `docs/openapi.json` is the same.

use axum::{
    http::header::CONTENT_TYPE,
    response::{IntoResponse as _, Response},
};
use jit_client::controller::types::{AuditView, Problem};
use utoipa::{
    OpenApi as _,
    openapi::{
        Components, OpenApi, RefOr, ResponseBuilder,
        content::ContentBuilder,
        schema::Ref,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use super::{problem::MEDIA_TYPE, with_token, without_token};

/// Name of the way to authenticate.
const BEARER: &str = "bearer";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "jit-controller",
        description = "Access to ports of hosts: asked for, agreed to, signed, and ended. Errors are \
                       problem details (RFC 9457) with a stable `word`."
    ),
    components(schemas(AuditView, Problem))
)]
struct Base;

/// The description.
pub fn description() -> OpenApi {
    let mut all = with_token().merge(without_token()).into_openapi();
    let base = Base::openapi();
    all.info = base.info;
    let components = all.components.get_or_insert_with(Components::new);
    if let Some(base) = base.components {
        components.schemas.extend(base.schemas);
    }
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("jit_...");
    components.add_security_scheme(BEARER, SecurityScheme::Http(scheme.build()));
    let no_scopes: [&str; 0] = [];
    all.security = Some(vec![SecurityRequirement::new(BEARER, no_scopes)]);
    let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let problem = ResponseBuilder::new()
        .description("Why it was not done.")
        .content(MEDIA_TYPE, problem)
        .build();
    for path in all.paths.paths.values_mut() {
        let operations = [&mut path.get, &mut path.put, &mut path.post, &mut path.delete];
        for operation in operations.into_iter().flatten() {
            let responses = &mut operation.responses.responses;
            responses.insert("default".to_owned(), RefOr::T(problem.clone()));
        }
    }
    all
}

/// This description.
#[utoipa::path(get, path = "/api/openapi.json", tag = "health", security(()),
    responses((status = 200, body = String, content_type = "application/json")))]
pub(super) async fn read() -> Response {
    let text = description().to_json().unwrap_or_default();
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}
