//! `?fields=id,status`: a job with those of its fields alone, small enough to be polled.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::PartialSchema;
use utoipa::openapi::{RefOr, Schema};

use crate::job_object::JobObject;
use crate::problem::{Code, Problem, Result};
use crate::query::Pairs;

/// Which fields of an object are asked for; all, where nothing is said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields(Option<Vec<String>>);

impl Fields {
    pub(crate) fn asked(query: &Pairs) -> Result<Self> {
        let Some(text) = query.parsed::<String>("fields")? else { return Ok(Self(None)) };
        let known = known();
        match text.split(',').find(|name| !known.iter().any(|known| known == name)) {
            None => Ok(Self::of(&text)),
            Some(name) => Err(Problem::new(Code::InvalidQuery, unknown(name, &known))),
        }
    }

    /// Names joined by commas.
    pub(crate) fn of(names: &str) -> Self {
        Self(Some(names.split(',').map(str::to_owned).collect()))
    }

    pub(crate) fn pick(&self, object: &impl Serialize) -> Value {
        let value = serde_json::to_value(object).expect("objects of texts and numbers are JSON");
        match (&self.0, value) {
            (Some(names), Value::Object(mut all)) => {
                let picked = names.iter().filter_map(|name| Some((name.clone(), all.remove(name)?)));
                Value::Object(picked.collect::<Map<_, _>>())
            }
            (_, value) => value,
        }
    }
}

/// As the contract has them.
pub(crate) fn known() -> Vec<String> {
    match JobObject::schema() {
        RefOr::T(Schema::Object(object)) => object.properties.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

fn unknown(name: &str, known: &[String]) -> String {
    let advice = match recipe::nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are {}", known.join(", ")),
    };
    format!("query parameter `fields` names {name:?}, which no job has; {advice}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::Fixture;

    #[tokio::test]
    async fn a_job_is_given_with_the_fields_that_are_asked_for() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        let path = format!("/v1/jobs/{id}?fields=status,id");
        assert_eq!(fixture.get(&path).await.json(), json!({"status": "queued", "id": id.as_str()}));
        let list = fixture.get("/v1/jobs?fields=id").await.json();
        assert_eq!(list["data"], json!([{"id": id.as_str()}]));
        for (fields, advice) in [("stauts", "did you mean `status`?"), ("", "there are"), ("id,", "there are")] {
            let answer = fixture.get(&format!("/v1/jobs?fields={fields}")).await;
            assert_eq!(answer.status, 400);
            assert!(answer.json()["detail"].as_str().unwrap().contains(advice), "{}", answer.text());
        }
        // one that no field of changed is the same answer
        let tag = fixture.get(&path).await.header("etag").to_owned();
        fixture.claim().await;
        assert_ne!(fixture.get(&path).await.header("etag"), tag);
    }
}
