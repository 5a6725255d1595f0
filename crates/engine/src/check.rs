//! All that can be said of a recipe without its models.

use std::collections::BTreeSet;

use checkpoint::Access;
use recipe::{Content, Problem, Recipe, Refusal, Setting, Value, nearest};

use crate::lora::kinds;
use crate::lora::mixing::Mixing;
use crate::methods::{self, About, Base, Default, METHODS, Method, Scope};
use crate::parameters::{self, Place};
use crate::slices::{Slice, SliceSource, slices};
use crate::{Sources, advice};

/// What a recipe makes, and how.
#[derive(Clone, Copy)]
pub(crate) enum Making {
    /// A model, by a method of merging.
    Model(&'static dyn Method),
    /// An adapter from the difference of two models.
    Extraction,
    /// An adapter from others.
    Mixture(Mixing),
}

impl Making {
    pub(crate) fn about(self) -> About {
        match self {
            Making::Model(method) => method.about(),
            Making::Extraction => kinds::extraction(),
            Making::Mixture(mixing) => kinds::mixture_about(mixing),
        }
    }
}

/// The warnings, or every problem found.
pub fn check(recipe: &Recipe) -> Result<Vec<Problem>, Refusal> {
    check_making(recipe).map(|(_, warnings)| warnings)
}

/// The same with what is to be made.
pub(crate) fn check_making(recipe: &Recipe) -> Result<(Making, Vec<Problem>), Refusal> {
    check_as(recipe, find_making(recipe)?)
}

/// The same, by what its models are as far as they are here.
pub(crate) fn check_with(recipe: &Recipe, access: &Access) -> Result<(Making, Vec<Problem>), Refusal> {
    if Sources::are_adapters(recipe, access) {
        return check_adapters(recipe);
    }
    if let Some((pointer, adapter)) = Sources::first_adapter(recipe, access) {
        let detail = format!(
            "{:?} is an adapter and others are models; an adapter changes one model: write `model: MODEL+{}`",
            adapter.to_string(),
            adapter.path
        );
        return Err(recipe.positions.problem(&pointer, "not_a_model", detail).into());
    }
    check_making(recipe)
}

/// The same for a recipe whose models are all adapters.
pub(crate) fn check_adapters(recipe: &Recipe) -> Result<(Making, Vec<Problem>), Refusal> {
    let name = recipe.merge_method.as_str();
    let refuse = |pointer: &str, code: &str, detail: String| recipe.positions.problem(pointer, code, detail).into();
    let Some(mixing) = kinds::mixture(name) else {
        let detail = format!(
            "`{name}` does not merge adapters with each other; there are {}. To merge models with their adapters write `model: MODEL+ADAPTER`",
            crate::plan::known_mixings()
        );
        return Err(refuse("/merge_method", "unknown_method", detail));
    };
    if recipe.base_model.is_some() {
        let detail = "adapters are merged with each other without their model; remove `base_model`".to_owned();
        return Err(refuse("/base_model", "conflict", detail));
    }
    let other_form = match &recipe.content {
        Content::Models(_) => None,
        Content::Slices(_) => Some("/slices"),
        Content::Modules(_) => Some("/modules"),
    };
    if let Some(pointer) = other_form {
        return Err(refuse(pointer, "conflict", "adapters are merged whole; write `models`".to_owned()));
    }
    if recipe.tokenizer.is_some() {
        return Err(refuse("/tokenizer", "conflict", "an adapter has no vocabulary; remove `tokenizer`".to_owned()));
    }
    check_as(recipe, Making::Mixture(mixing))
}

fn check_as(recipe: &Recipe, making: Making) -> Result<(Making, Vec<Problem>), Refusal> {
    let about = making.about();
    let mut findings = Findings { recipe, about: &about, problems: Vec::new(), warnings: recipe.warnings.clone() };
    let slices = slices(recipe);
    findings.parameter_names(&slices);
    findings.inputs(&slices);
    findings.lengths(&slices);
    findings.required_parameters(&slices);
    if let Making::Model(method) = making
        && findings.problems.is_empty()
    {
        findings.trial(method, &slices);
    }
    findings.chat_template();
    findings.seed();
    if findings.problems.is_empty() {
        findings.warnings.extend(advice::of_recipe(&advice::Subject { recipe, about: &about, slices: &slices }));
        Ok((making, findings.warnings))
    } else {
        findings.problems.truncate(recipe::limits::PROBLEMS_MAX);
        Err(Refusal { problems: findings.problems, warnings: findings.warnings })
    }
}

fn find_making(recipe: &Recipe) -> Result<Making, Refusal> {
    let name = recipe.merge_method.as_str();
    if let Some(method) = methods::find(name) {
        return Ok(Making::Model(method));
    }
    if name == kinds::EXTRACT {
        return Ok(Making::Extraction);
    }
    if let Some(mixing) = kinds::mixture(name) {
        return Ok(Making::Mixture(mixing));
    }
    let known: Vec<&str> = all_abouts().into_iter().map(|about| about.name).collect();
    let detail = match nearest(name, known.iter().copied()) {
        Some(near) => format!("unknown method `{name}`; did you mean `{near}`?"),
        None => format!("unknown method `{name}`; there are {}", known.join(", ")),
    };
    Err(recipe.positions.problem("/merge_method", "unknown_method", detail).into())
}

/// Which input is the base, where the method may take the first by default.
pub(crate) fn base_of(about: &About, slice: &Slice<'_>) -> Option<usize> {
    match about.inputs.base {
        Base::FirstByDefault if slice.named_base.is_none() => Some(0),
        _ => slice.base,
    }
}

struct Findings<'a> {
    recipe: &'a Recipe,
    about: &'a About,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Findings<'_> {
    fn error(&mut self, pointer: &str, code: &str, detail: impl Into<String>) {
        self.problems.push(self.recipe.positions.problem(pointer, code, detail));
    }

    fn warn(&mut self, pointer: &str, code: &str, detail: impl Into<String>) {
        self.warnings.push(self.recipe.positions.problem(pointer, code, detail));
    }

    fn seed(&mut self) {
        if self.recipe.options.random_seed.is_some() && !self.about.draws_numbers() {
            let detail = format!("`random_seed` has no effect on {}, which draws no numbers", self.about.name);
            self.warn("/options/random_seed", "no_effect", detail);
        }
    }

    fn chat_template(&mut self) {
        if let Some(Err(error)) = self.recipe.chat_template.as_deref().map(vocabulary::ChatTemplate::parse) {
            self.error("/chat_template", "invalid_value", error.to_string());
        }
    }

    fn parameter_names(&mut self, slices: &[Slice<'_>]) {
        self.level("/parameters", &self.recipe.parameters, Of::Several);
        self.overridden(slices);
        let mut seen = BTreeSet::new();
        for slice in slices {
            // the slices of one module share its level
            for (pointer, parameters) in slice.levels.iter().filter(|(pointer, _)| seen.insert(pointer)) {
                self.level(&format!("{pointer}/parameters"), parameters, Of::Several);
            }
            let base = base_of(self.about, slice);
            for (i, source) in slice.sources.iter().enumerate() {
                let of = if base == Some(i) { Of::Base } else { Of::Model };
                self.level(&format!("{}/parameters", source.pointer), source.parameters, of);
            }
        }
    }

    fn level(&mut self, pointer: &str, parameters: &recipe::Parameters, of: Of) {
        for (name, setting) in parameters {
            let at = format!("{pointer}/{}", recipe::escape(name));
            let Some(known) = self.about.parameters.iter().find(|p| p.name == name) else {
                self.unknown_parameter(&at, name);
                continue;
            };
            if let Some(why) = without_effect(known, of) {
                self.warn(&at, "no_effect", format!("`{name}` has no effect {why}"));
                continue;
            }
            let wrong = setting.scalars().find_map(|scalar| parameters::value(known, scalar).err());
            if let Some(detail) = wrong {
                self.error(&at, "invalid_value", detail);
            }
        }
    }

    /// Of settings for all models those that each model sets for itself.
    fn overridden(&mut self, slices: &[Slice<'_>]) {
        for name in self.recipe.parameters.keys() {
            let known = self.about.parameters.iter().find(|p| p.name == name);
            let Some(known) = known.filter(|known| known.scope != Scope::Shared) else { continue };
            let sets = |slice: &Slice<'_>| {
                let base = base_of(self.about, slice).filter(|_| known.scope == Scope::EachInputButBase);
                let others = slice.sources.iter().enumerate().filter(|(i, _)| base != Some(*i));
                others.into_iter().all(|(_, source)| matches!(source.parameters.get(name), Some(Setting::Plain(_))))
            };
            if slices.iter().all(sets) {
                let detail = format!("`{name}` has no effect here: every model sets its own");
                self.warn(&format!("/parameters/{}", recipe::escape(name)), "no_effect", detail);
            }
        }
    }

    fn unknown_parameter(&mut self, at: &str, name: &str) {
        let method = self.about.name;
        let others = methods_with(name);
        if !others.is_empty() {
            let detail = format!("`{name}` has no effect on {method}; it belongs to {}", first_few(&others));
            return self.warnings.push(self.recipe.positions.problem_of_name(at, "no_effect", detail));
        }
        let detail = format!("unknown parameter `{name}`; {}", self.parameter_meant(name));
        let problem = self.recipe.positions.problem_of_name(at, "unknown_parameter", detail);
        if self.recipe.lenient {
            self.warnings.push(problem);
        } else {
            self.problems.push(problem);
        }
    }

    fn parameter_meant(&self, name: &str) -> String {
        let own: Vec<&str> = self.about.parameters.iter().map(|p| p.name).collect();
        if let Some(near) = nearest(name, own.iter().copied()) {
            return format!("did you mean `{near}`?");
        }
        if let Some(place) = recipe::place_of(name) {
            return format!("it is no parameter and belongs {place}");
        }
        let abouts: Vec<About> = METHODS.iter().map(|m| m.about()).collect();
        let all = abouts.iter().flat_map(|a| &a.parameters).map(|p| p.name);
        match (nearest(name, all), own.as_slice()) {
            (Some(near), _) => format!(
                "did you mean `{near}`? That has no effect on {}; it belongs to {}",
                self.about.name,
                first_few(&methods_with(near))
            ),
            (None, []) => format!("{} has none", self.about.name),
            (None, own) => format!("{} has {}", self.about.name, own.join(", ")),
        }
    }

    fn inputs(&mut self, slices: &[Slice<'_>]) {
        for slice in slices {
            self.duplicates(slice);
            self.base(slice);
            self.count(slice);
        }
    }

    fn duplicates(&mut self, slice: &Slice<'_>) {
        for (i, source) in slice.sources.iter().enumerate() {
            if slice.sources[..i].iter().any(|s| s.model == source.model && s.range == source.range) {
                self.error(
                    &source.pointer,
                    "duplicate_input",
                    format!(
                        "model {:?} is listed twice; list it once, with the sum of its weights",
                        source.model.to_string()
                    ),
                );
            }
        }
    }

    fn base(&mut self, slice: &Slice<'_>) {
        let method = self.about.name;
        match (self.about.inputs.base, slice.named_base, slice.base) {
            (Base::Ordinary, _, _) | (Base::Optional, None, _) | (_, Some(_), Some(_)) => {}
            (_, Some(base), None) => {
                let detail = format!(
                    "base_model {:?} is not a source of this slice, and {method} needs it there; add it to `sources` with its layer_range",
                    base.to_string()
                );
                self.error(&slice.pointer, "missing_base", detail);
            }
            (Base::Required, None, _) => {
                self.error(
                    &slice.pointer,
                    "missing_base",
                    format!("{method} needs a base; add `base_model: PATH`, the model that the others were tuned from"),
                );
            }
            (Base::FirstByDefault, None, _) => {
                let first = slice.sources[0].model.to_string();
                self.warn(
                    &slice.pointer,
                    "base_by_default",
                    format!("no `base_model`; {method} takes the first source, {first:?}, for it"),
                );
            }
        }
    }

    fn count(&mut self, slice: &Slice<'_>) {
        let inputs = self.about.inputs;
        let uncounted = inputs.base == Base::Optional && slice.base.is_some();
        let found = slice.sources.len() - usize::from(uncounted);
        if found >= inputs.min && inputs.max.is_none_or(|max| found <= max) {
            return;
        }
        let wanted = match inputs.max {
            Some(max) if max == inputs.min => format!("exactly {max}"),
            Some(max) => format!("{} to {max}", inputs.min),
            None => format!("at least {}", inputs.min),
        };
        let added = slice
            .sources
            .iter()
            .find(|s| s.added)
            .map_or("", |_| ", `base_model` counted because it is not among them");
        let same = match slice.base.filter(|_| slice.sources.len() == 1) {
            Some(_) => "; `base_model` is that same model",
            None => "",
        };
        let plural = if inputs.max == Some(1) { "" } else { "s" };
        self.error(
            &slice.pointer,
            "wrong_number_of_inputs",
            format!("{} merges {wanted} model{plural}, found {found}{added}{same}", self.about.name),
        );
    }

    fn lengths(&mut self, slices: &[Slice<'_>]) {
        for slice in slices {
            let mut ranges = slice.sources.iter().filter_map(|s| Some((s, s.range?)));
            let Some((_, first)) = ranges.next() else { continue };
            for (source, range) in ranges.filter(|(_, r)| r.len() != first.len()) {
                let detail = format!(
                    "this source has {} layers and the first of the slice has {}; sources of a slice need equally many",
                    range.len(),
                    first.len()
                );
                self.error(&format!("{}/layer_range", source.pointer), "unequal_layer_ranges", detail);
            }
        }
        for of_module in slices.chunk_by(|a, b| a.module == b.module) {
            if of_module.iter().all(|s| s.sources.iter().all(|s| s.range.is_some_and(|r| r.is_empty()))) {
                let pointer = of_module[0].pointer.rsplit_once('/').map_or("", |(list, _)| list);
                self.error(
                    pointer,
                    "invalid_value",
                    "the slices have no layer between them; give at least one a layer_range that is not empty",
                );
            }
        }
    }

    fn required_parameters(&mut self, slices: &[Slice<'_>]) {
        let required: Vec<_> = self
            .about
            .parameters
            .iter()
            .filter(|p| matches!(p.default, Default::Required | Default::WhenSetNowhere(_)))
            .collect();
        let names_set = parameters::names_set(self.recipe, slices);
        for parameter in required {
            if let Default::WhenSetNowhere(value) = parameter.default
                && !names_set.contains(parameter.name)
            {
                self.warn("", "parameter_by_default", format!("no model has a `{}`; all are {value}", parameter.name));
                continue;
            }
            for slice in slices {
                self.required_in(slice, parameter);
            }
        }
    }

    fn required_in(&mut self, slice: &Slice<'_>, parameter: &methods::Parameter) {
        let base = base_of(self.about, slice);
        let sources: Vec<Option<&SliceSource<'_>>> = match parameter.scope {
            Scope::Shared => vec![None],
            Scope::EachInput => slice.sources.iter().map(Some).collect(),
            Scope::EachInputButBase => {
                slice.sources.iter().enumerate().filter(|(i, _)| base != Some(*i)).map(|(_, s)| Some(s)).collect()
            }
        };
        for source in sources {
            if !parameters::is_set(self.recipe, slice, source, parameter.name) {
                let (pointer, detail) = parameters::missing(slice, source, parameter.name, None);
                self.error(&pointer, "missing_parameter", detail);
            }
        }
    }

    /// Where every setting is the same for all tensors, the method itself can be asked at once.
    fn trial(&mut self, method: &dyn Method, slices: &[Slice<'_>]) {
        let names_set = parameters::names_set(self.recipe, slices);
        for slice in slices {
            let levels = slice.all_levels().map(|(_, parameters)| parameters).chain([&self.recipe.parameters]);
            if !levels.flat_map(|parameters| parameters.values()).all(is_constant) {
                continue;
            }
            let names = vec![""; slice.sources.len()];
            let place = Place { name: "", input_names: &names, t: 0.0, depth: None, shape: &[1], seed: 0 };
            let resolved =
                parameters::resolve(self.recipe, self.about, &names_set, slice, base_of(self.about, slice), &place);
            match resolved.map(|parameters| method.prepare(&parameters)) {
                Ok(Ok(_)) => {}
                Ok(Err(detail)) => self.error(&slice.pointer, "invalid_value", detail),
                Err(problem) => self.problems.push(problem),
            }
        }
    }
}

/// What the parameters of a level belong to.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    Several,
    Model,
    Base,
}

/// Why a known parameter changes nothing where it stands.
fn without_effect(parameter: &methods::Parameter, of: Of) -> Option<&'static str> {
    match (parameter.scope, of) {
        _ if parameter.name == "int8_mask" => Some("here: masks are never stored, so none takes memory; leave it out"),
        (Scope::Shared, Of::Model | Of::Base) => Some("on one model; set it under the recipe's `parameters`"),
        (Scope::EachInputButBase, Of::Base) => Some("on the base, which the others are compared with; leave it out"),
        _ => None,
    }
}

fn methods_with(parameter: &str) -> Vec<&'static str> {
    let has = |about: &About| about.parameters.iter().any(|p| p.name == parameter);
    let mut names: Vec<&str> = all_abouts().into_iter().filter(has).map(|a| a.name).collect();
    names.dedup();
    names
}

/// Of models, then of adapters; some names are of both.
fn all_abouts() -> Vec<About> {
    let of_models = METHODS.iter().map(|m| m.about());
    let mut abouts: Vec<About> = of_models.collect();
    abouts.extend(kinds::adapter_methods().into_iter().filter(|a| methods::find(a.name).is_none()));
    abouts
}

fn first_few(methods: &[&str]) -> String {
    const TOLD_MAX: usize = 4;
    match methods.get(TOLD_MAX..) {
        Some(rest) if !rest.is_empty() => format!("{} and {} more", methods[..TOLD_MAX].join(", "), rest.len()),
        _ => methods.join(", "),
    }
}

fn is_constant(setting: &Setting) -> bool {
    matches!(setting, Setting::Plain(Value::Scalar(_)))
}
