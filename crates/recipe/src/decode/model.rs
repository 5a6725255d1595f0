//! Models, in every spelling: `PATH@REVISION+LORA`, mergekit's object, and the form in which recipes are written back.

use super::{Decoder, Object};
use crate::ModelRef;
use crate::node::{Kind, Node};

impl Decoder {
    pub(super) fn required_model(&mut self, object: &Object<'_>) -> Option<ModelRef> {
        let Some((node, pointer)) = object.get("model") else {
            let pointer = object.pointer.clone();
            self.error(&pointer, "missing", "`model` is missing; write `model: PATH` or `model: owner/name`");
            return None;
        };
        self.model_ref(node, &pointer)
    }

    pub(super) fn model_ref(&mut self, node: &Node, pointer: &str) -> Option<ModelRef> {
        match &node.kind {
            Kind::Text(text) => {
                let parsed = text.parse().map_err(|detail: String| self.error(pointer, "invalid_value", detail));
                self.on_this_machine(parsed.ok()?, pointer)
            }
            Kind::Map(entries) if entries.iter().any(|(key, _)| key.name == "path") => self.model_path(node, pointer),
            Kind::Map(_) => self.model_object(node, pointer),
            _ => {
                self.wrong_type(pointer, node, "a model: a path, `owner/name` or `owner/name@revision`");
                None
            }
        }
    }

    /// `{model: {path, revision}, lora: {path, revision}, override_architecture}`, as mergekit has it.
    fn model_object(&mut self, node: &Node, pointer: &str) -> Option<ModelRef> {
        // with `path` it would be the other form; a typo of it is told so
        let known = &["model", "lora", "override_architecture", "path"];
        let object = self.object(node, pointer, known, "a model reference")?;
        let Some((model, at)) = object.get("model") else {
            self.error(pointer, "missing", "write `path`, or `model: {path: ...}`");
            return None;
        };
        let model = self.plain_path(model, &at)?;
        self.adapted(&object, model)
    }

    /// `{path, revision, lora: {path, revision}, override_architecture}`.
    fn model_path(&mut self, node: &Node, pointer: &str) -> Option<ModelRef> {
        let known = &["path", "revision", "lora", "override_architecture"];
        let object = self.object(node, pointer, known, "a map with `path`")?;
        let model = self.path_of(&object)?;
        self.adapted(&object, model)
    }

    fn adapted(&mut self, object: &Object<'_>, model: ModelRef) -> Option<ModelRef> {
        let lora = self.optional(object, "lora", Decoder::plain_path).map(Box::new);
        let override_architecture = self.optional(object, "override_architecture", Decoder::text);
        Some(ModelRef { lora, override_architecture, ..model })
    }

    /// A path alone, or `{path, revision}`.
    fn plain_path(&mut self, node: &Node, pointer: &str) -> Option<ModelRef> {
        if let Kind::Text(path) = &node.kind {
            return self.on_this_machine(ModelRef::local(path.clone()), pointer);
        }
        let object = self.object(node, pointer, &["path", "revision"], "a map with `path`")?;
        self.path_of(&object)
    }

    fn path_of(&mut self, object: &Object<'_>) -> Option<ModelRef> {
        let Some((path, at)) = object.get("path") else {
            let pointer = object.pointer.clone();
            self.error(&pointer, "missing", "`path` is missing");
            return None;
        };
        let path = self.text(path, &at)?;
        let revision = self.optional(object, "revision", Decoder::text);
        self.on_this_machine(ModelRef { revision, ..ModelRef::local(path) }, &at)
    }

    /// A path that can be one here; that of a Windows machine is looked for, with a warning.
    fn on_this_machine(&mut self, model: ModelRef, pointer: &str) -> Option<ModelRef> {
        let path = model.path.as_str();
        if path.is_empty() {
            self.error(pointer, "invalid_value", "the path of this model is empty");
            return None;
        }
        let adapter = model.lora.as_deref();
        let texts = [Some(path), model.revision.as_deref(), adapter.map(|a| a.path.as_str())].into_iter().flatten();
        if let Some(path) =
            texts.chain(adapter.and_then(|a| a.revision.as_deref())).find(|text| text.chars().any(char::is_control))
        {
            let detail = format!(
                "{path:?} has a control character; in double quotes a backslash begins an escape: write the path without quotes, or with `/`"
            );
            self.error(pointer, "invalid_value", detail);
            return None;
        }
        if is_of_windows(path) {
            let detail = format!(
                "{path:?} is a path of a Windows machine; models are looked for where the service runs: write the path as it is there, with `/`"
            );
            self.warn(pointer, "windows_path", detail);
        }
        Some(model)
    }
}

/// `C:\models\x`, `C:/models/x` or `\\host\share`.
fn is_of_windows(path: &str) -> bool {
    let drive = matches!(path.as_bytes(), [letter, b':', b'\\' | b'/', ..] if letter.is_ascii_alphabetic());
    drive || path.starts_with(r"\\")
}
