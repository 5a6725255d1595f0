//! Where a source model is.

use serde::{Deserialize, Serialize};

/// `MODEL[@REVISION][+LORA[@REVISION]]`: a path, or `owner/name` on the Hub.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelRef {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// A LoRA adapter to apply on top; itself without an adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Box<ModelRef>>,
    /// Class name that stands in for `architectures` of the model's config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub override_architecture: Option<String>,
}

impl ModelRef {
    pub fn local(path: impl Into<String>) -> ModelRef {
        ModelRef { path: path.into(), revision: None, lora: None, override_architecture: None }
    }

    /// Whether this could be on the Hub: `owner/name`, or one word as `gpt2`, in the characters the Hub allows. Anything
    /// else is a path.
    pub fn is_hub_like(&self) -> bool {
        let word = |s: &str| {
            !s.is_empty()
                && !s.starts_with(['.', '-'])
                && s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        };
        match self.path.split_once('/') {
            Some((owner, name)) => word(owner) && word(name),
            None => word(&self.path),
        }
    }
}

impl std::str::FromStr for ModelRef {
    type Err = String;

    fn from_str(text: &str) -> Result<ModelRef, String> {
        let mut sides = text.split('+');
        let model = sides.next().unwrap_or_default();
        let lora = sides.next();
        if sides.next().is_some() {
            return Err(format!(
                "model reference {text:?} has more than one `+`; a path with `+` in it needs the form `model: {{path: ...}}`"
            ));
        }
        let (path, revision) = split_revision(model)?;
        let lora = lora.map(split_revision).transpose()?;
        Ok(ModelRef {
            path,
            revision,
            lora: lora.map(|(path, revision)| Box::new(ModelRef { revision, ..ModelRef::local(path) })),
            override_architecture: None,
        })
    }
}

fn split_revision(text: &str) -> Result<(String, Option<String>), String> {
    let mut parts = text.split('@');
    let path = parts.next().unwrap_or_default().trim();
    let revision = parts.next().map(str::trim);
    if parts.next().is_some() {
        return Err(format!(
            "model reference {text:?} has more than one `@`; a path with `@` in it needs the form `model: {{path: ...}}`"
        ));
    }
    if path.is_empty() || revision == Some("") {
        return Err(format!(
            "model reference {text:?} is incomplete; write a path or owner/name, with @revision if needed"
        ));
    }
    Ok((path.to_owned(), revision.map(str::to_owned)))
}

impl std::fmt::Display for ModelRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.path)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        if let Some(lora) = &self.lora {
            write!(f, "+{lora}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_spellings_parse() {
        let parsed: ModelRef = "a/b@v1+c/d@v2".parse().unwrap();
        assert_eq!((parsed.path.as_str(), parsed.revision.as_deref()), ("a/b", Some("v1")));
        let lora = parsed.lora.as_deref().unwrap();
        assert_eq!((lora.path.as_str(), lora.revision.as_deref()), ("c/d", Some("v2")));
        assert_eq!(parsed.to_string(), "a/b@v1+c/d@v2");
        for wrong in ["", "@x", "a@", "a+b+c", "a@b@c", "a+"] {
            assert!(wrong.parse::<ModelRef>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_hub_name_is_told_from_a_path() {
        for (text, expected) in [
            ("org/name", true),
            ("./org/name", false),
            ("models/a/b", false),
            ("gpt2", true),
            ("/a", false),
            (".", false),
        ] {
            assert_eq!(ModelRef::local(text).is_hub_like(), expected, "{text}");
        }
    }
}
