//! A recipe's `models` and `slices` as one form: output slices with their sources, base and levels of parameters.

use recipe::{Content, LayerRange, ModelRef, Parameters, Recipe};

impl Slice<'_> {
    /// The slice as far as these of its sources go.
    pub fn of_sources(&self, present: &[usize]) -> Slice<'_> {
        Slice {
            pointer: self.pointer.clone(),
            sources: present.iter().map(|i| self.sources[*i].clone()).collect(),
            base: present.iter().position(|i| Some(*i) == self.base),
            named_base: self.named_base,
            parameters: self.parameters,
        }
    }
}

static NO_PARAMETERS: Parameters = Parameters::new();

#[derive(Debug)]
pub(crate) struct Slice<'a> {
    pub pointer: String,
    pub sources: Vec<SliceSource<'a>>,
    /// Which source is the base, when it is among them.
    pub base: Option<usize>,
    /// The base the recipe names for this slice.
    pub named_base: Option<&'a ModelRef>,
    pub parameters: &'a Parameters,
}

#[derive(Debug, Clone)]
pub(crate) struct SliceSource<'a> {
    pub pointer: String,
    pub model: &'a ModelRef,
    /// All layers without one.
    pub range: Option<LayerRange>,
    pub parameters: &'a Parameters,
    /// The base, added because the recipe names it apart from `models`.
    pub added: bool,
}

pub(crate) fn slices(recipe: &Recipe) -> Vec<Slice<'_>> {
    match &recipe.content {
        Content::Models(_) => vec![whole_models(recipe)],
        Content::Slices(slices) => slices.iter().enumerate().map(|(i, slice)| layer_slice(recipe, i, slice)).collect(),
    }
}

fn whole_models(recipe: &Recipe) -> Slice<'_> {
    let Content::Models(models) = &recipe.content else { unreachable!("called for models only") };
    let mut sources: Vec<SliceSource<'_>> = models
        .iter()
        .enumerate()
        .map(|(i, m)| SliceSource {
            pointer: format!("/models/{i}"),
            model: &m.model,
            range: None,
            parameters: &m.parameters,
            added: false,
        })
        .collect();
    let named_base = recipe.base_model.as_ref();
    if let Some(base) = named_base.filter(|base| !sources.iter().any(|s| s.model == *base)) {
        sources.push(SliceSource {
            pointer: "/base_model".into(),
            model: base,
            range: None,
            parameters: &NO_PARAMETERS,
            added: true,
        });
    }
    let base = base_among(&sources, named_base);
    Slice { pointer: "/models".into(), sources, base, named_base, parameters: &NO_PARAMETERS }
}

fn layer_slice<'a>(recipe: &'a Recipe, i: usize, slice: &'a recipe::OutputSlice) -> Slice<'a> {
    let pointer = format!("/slices/{i}");
    let sources: Vec<SliceSource<'_>> = slice
        .sources
        .iter()
        .enumerate()
        .map(|(j, s)| SliceSource {
            pointer: format!("{pointer}/sources/{j}"),
            model: &s.model,
            range: Some(s.layer_range),
            parameters: &s.parameters,
            added: false,
        })
        .collect();
    let named_base = slice.base_model.as_ref().or(recipe.base_model.as_ref());
    let base = base_among(&sources, named_base);
    Slice { pointer, sources, base, named_base, parameters: &slice.parameters }
}

fn base_among(sources: &[SliceSource<'_>], base: Option<&ModelRef>) -> Option<usize> {
    sources.iter().position(|s| Some(s.model) == base)
}
