//! `GET /v1/methods`: what a recipe may name, and what each method takes.

use axum::Json;
use engine::adapter_methods;
use engine::methods::{About, METHODS};
use serde::Serialize;
use utoipa::ToSchema;

use crate::problem::AnyProblem;

#[derive(Serialize)]
pub(crate) struct MethodList {
    object: &'static str,
    data: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    makes: &'static str,
    #[serde(flatten)]
    about: About,
}

#[derive(ToSchema)]
#[schema(as = MethodList)]
#[expect(dead_code, reason = "written down for the documentation; a test holds it to what the engine gives")]
pub(crate) struct MethodListBody {
    /// Always `list`.
    object: String,
    data: Vec<MethodBody>,
}

#[derive(ToSchema)]
#[schema(as = Method)]
#[expect(dead_code, reason = "written down for the documentation")]
pub(crate) struct MethodBody {
    /// `model`, or `adapter`: what comes of it. Some names merge models with each other, and adapters with each other.
    makes: String,
    /// What a recipe says.
    #[schema(example = "slerp")]
    name: String,
    title: String,
    formula: String,
    /// Paper or source of the formula.
    source: String,
    advice: String,
    /// `elementwise`, `two_passes` or `selection`: how often inputs are read.
    cost: String,
    inputs: InputsBody,
    parameters: Vec<ParameterBody>,
}

/// How many inputs a tensor may have, the base counted unless it is optional.
#[derive(ToSchema)]
#[schema(as = MethodInputs)]
#[expect(dead_code, reason = "written down for the documentation")]
pub(crate) struct InputsBody {
    /// `ordinary`, `optional`, `first_by_default` or `required`.
    base: String,
    min: u64,
    max: Option<u64>,
}

#[derive(ToSchema)]
#[schema(as = MethodParameter)]
#[expect(dead_code, reason = "written down for the documentation")]
pub(crate) struct ParameterBody {
    name: String,
    /// `number`, `count` (a whole number), `boolean`, or an object `word` with the words that may be said.
    #[schema(value_type = Value)]
    kind: (),
    /// `shared`, `each_input` or `each_input_but_base`.
    scope: String,
    /// `required`, `absent`, or an object of one key: `number`, `boolean`, `word` or `when_set_nowhere`.
    #[schema(value_type = Value)]
    default: (),
    /// Inclusive bounds.
    #[schema(value_type = Option<Vec<f64>>)]
    range: (),
    about: String,
}

/// List the merge methods
#[utoipa::path(
    get,
    path = "/v1/methods",
    tag = "plans",
    responses((status = 200, description = "Every method", body = MethodListBody), AnyProblem)
)]
pub(crate) async fn list_methods() -> Json<MethodList> {
    let of_models = METHODS.iter().map(|method| Listed { makes: "model", about: method.about() });
    let of_adapters = adapter_methods().into_iter().map(|about| Listed { makes: "adapter", about });
    Json(MethodList { object: "list", data: of_models.chain(of_adapters).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fixture, assert_documented};

    #[tokio::test]
    async fn every_method_is_listed_as_documented() {
        let fixture = Fixture::new().await;
        let body = fixture.get("/v1/methods").await.json();
        assert_documented::<MethodListBody>(&body);
        let methods = body["data"].as_array().unwrap();
        assert_eq!(methods.len(), METHODS.len() + adapter_methods().len());
        for method in methods {
            assert_documented::<MethodBody>(method);
            assert_documented::<InputsBody>(&method["inputs"]);
            method["parameters"].as_array().unwrap().iter().for_each(assert_documented::<ParameterBody>);
        }
    }
}
