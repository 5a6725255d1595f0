//! A recipe's `models`, `slices` and `modules` as one form: output slices with their sources, base and levels of
//! parameters.

use recipe::{Content, InputModel, LayerRange, ModelRef, ModuleContent, OutputSlice, Parameters, Recipe, escape};

static NO_PARAMETERS: Parameters = Parameters::new();

#[derive(Debug)]
pub(crate) struct Slice<'a> {
    pub pointer: String,
    /// The module it is of; every module without one.
    pub module: Option<&'a str>,
    pub sources: Vec<SliceSource<'a>>,
    /// Which source is the base, when it is among them.
    pub base: Option<usize>,
    /// The base the recipe names for this slice.
    pub named_base: Option<&'a ModelRef>,
    /// Parameters between those of a source and those of the recipe, nearest first, with the pointer of their owner.
    pub levels: Vec<(String, &'a Parameters)>,
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

impl<'a> Slice<'a> {
    /// The slice as far as these of its sources go.
    pub fn of_sources(&self, present: &[usize]) -> Slice<'a> {
        Slice {
            pointer: self.pointer.clone(),
            module: self.module,
            sources: present.iter().map(|i| self.sources[*i].clone()).collect(),
            base: present.iter().position(|i| Some(*i) == self.base),
            named_base: self.named_base,
            levels: self.levels.clone(),
        }
    }

    /// Whether it takes models whole rather than a range of their layers.
    pub fn is_whole(&self) -> bool {
        self.sources[0].range.is_none()
    }

    /// Every level of parameters in it, with the pointer of its owner.
    pub fn all_levels(&self) -> impl Iterator<Item = (&str, &'a Parameters)> {
        let of_sources = self.sources.iter().map(|s| (s.pointer.as_str(), s.parameters));
        of_sources.chain(self.levels.iter().map(|(pointer, parameters)| (pointer.as_str(), *parameters)))
    }
}

pub(crate) fn slices(recipe: &Recipe) -> Vec<Slice<'_>> {
    let top = Scope { recipe, pointer: String::new(), module: None, parameters: None };
    match &recipe.content {
        Content::Models(models) => vec![whole_models(&top, models)],
        Content::Slices(slices) => layer_slices(&top, slices),
        Content::Modules(modules) => modules
            .iter()
            .flat_map(|(name, module)| {
                let scope = Scope {
                    recipe,
                    pointer: format!("/modules/{}", escape(name)),
                    module: Some(name),
                    parameters: Some(&module.parameters),
                };
                match &module.content {
                    ModuleContent::Models(models) => vec![whole_models(&scope, models)],
                    ModuleContent::Slices(slices) => layer_slices(&scope, slices),
                }
            })
            .collect(),
    }
}

/// What models or slices stand in: the recipe itself, or one of its modules.
struct Scope<'a> {
    recipe: &'a Recipe,
    pointer: String,
    module: Option<&'a str>,
    parameters: Option<&'a Parameters>,
}

impl<'a> Scope<'a> {
    fn level(&self) -> Option<(String, &'a Parameters)> {
        Some((self.pointer.clone(), self.parameters?))
    }
}

fn whole_models<'a>(scope: &Scope<'a>, models: &'a [InputModel]) -> Slice<'a> {
    let pointer = format!("{}/models", scope.pointer);
    let mut sources: Vec<SliceSource<'_>> = models
        .iter()
        .enumerate()
        .map(|(i, m)| SliceSource {
            pointer: format!("{pointer}/{i}"),
            model: &m.model,
            range: None,
            parameters: &m.parameters,
            added: false,
        })
        .collect();
    let named_base = scope.recipe.base_model.as_ref();
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
    Slice { pointer, module: scope.module, sources, base, named_base, levels: scope.level().into_iter().collect() }
}

fn layer_slices<'a>(scope: &Scope<'a>, slices: &'a [OutputSlice]) -> Vec<Slice<'a>> {
    slices.iter().enumerate().map(|(i, slice)| layer_slice(scope, i, slice)).collect()
}

fn layer_slice<'a>(scope: &Scope<'a>, i: usize, slice: &'a OutputSlice) -> Slice<'a> {
    let pointer = format!("{}/slices/{i}", scope.pointer);
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
    let named_base = slice.base_model.as_ref().or(scope.recipe.base_model.as_ref());
    let base = base_among(&sources, named_base);
    let levels = std::iter::once((pointer.clone(), &slice.parameters)).chain(scope.level()).collect();
    Slice { pointer, module: scope.module, sources, base, named_base, levels }
}

fn base_among(sources: &[SliceSource<'_>], base: Option<&ModelRef>) -> Option<usize> {
    sources.iter().position(|s| Some(s.model) == base)
}
