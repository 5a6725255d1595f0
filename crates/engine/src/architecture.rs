//! What a checkpoint is made of: its modules, their stacks of layers, and the roles of the tensors outside them.
//!
//! Nearly all of it is derived from tensor names and `config.json`, so that a family nobody told us of works. What cannot
//! be derived is in `architecture/families.json`.

pub(crate) mod depth;
mod families;
mod spelling;

use std::collections::{BTreeMap, BTreeSet};

use checkpoint::{Checkpoint, TensorInfo};
use serde_json::Value;

use crate::layers::{self, LayerName};
pub(crate) use families::{FAMILIES, ModuleRule};
pub(crate) use spelling::spell_alike;

#[derive(Debug)]
pub(crate) struct Architecture {
    /// The class that loads it, as its config or the recipe says.
    pub class: String,
    /// Most specific first; a tensor belongs to the first that claims it.
    pub modules: Vec<Module>,
}

#[derive(Debug)]
pub(crate) struct Module {
    pub name: String,
    aliases: Vec<String>,
    claims: Claims,
    /// The part of `config.json` that speaks of it, as a JSON pointer.
    pub config: Option<String>,
    /// Keys of that part which may say how many layers it has.
    pub layer_counts: Vec<String>,
    pub stack: Option<Stack>,
}

/// Which tensors belong to a module.
#[derive(Debug)]
enum Claims {
    /// Those with one of these words in a segment before their first number.
    Words(Vec<String>),
    /// Those of one stack of layers.
    Stack(String),
    Rest,
}

/// Layers in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stack {
    pub prefix: String,
    /// As many as the config says; layers beyond are no part of the model's own depth.
    pub count: u32,
}

impl Architecture {
    pub fn of(checkpoint: &Checkpoint, class: Option<&str>) -> Architecture {
        let config = &checkpoint.config;
        let found = class.or_else(|| config.pointer("/architectures/0").or(config.get("model_type"))?.as_str());
        let class = found.unwrap_or("model without `architectures` in its config").to_owned();
        let stacks = stacks(checkpoint);
        let mut modules: Vec<Module> = match FAMILIES.modules_of(config) {
            Some(rules) => rules.iter().map(|rule| Module::of_rule(rule, config)).collect(),
            None => vec![Module::default_of(config)],
        };
        let mut members: Vec<BTreeSet<&str>> = vec![BTreeSet::new(); modules.len()];
        for name in checkpoint.tensors.keys() {
            members[module_of(&modules, name)].insert(name);
        }
        for (module, members) in modules.iter_mut().zip(&members) {
            module.stack = module.main_stack(&stacks, members, config);
        }
        let mut filled = members.iter().map(|members| !members.is_empty());
        modules.retain(|_| filled.next().expect("one for each module"));
        let unclear = modules.len() == 1 && modules[0].stack.is_none();
        if unclear && stacks.values().filter(|layers| is_stack(layers)).count() > 1 {
            modules = one_for_each_stack(&stacks);
        }
        Architecture { class, modules }
    }

    pub fn module_of(&self, tensor: &str) -> usize {
        module_of(&self.modules, tensor)
    }

    /// The module that a recipe names.
    pub fn find(&self, name: &str) -> Option<usize> {
        let by_name = self.modules.iter().position(|m| m.name == name);
        by_name.or_else(|| self.modules.iter().position(|m| m.aliases.iter().any(|a| a == name)))
    }

    /// The module that a slice is of: the one it names, else the only one with layers.
    pub fn module_of_slice(&self, name: Option<&str>) -> Option<&Module> {
        match name {
            Some(name) => self.modules.get(self.find(name)?),
            None => self.modules.iter().find(|m| m.stack.is_some()),
        }
    }

    pub fn stack_of(&self, slice_module: Option<&str>) -> Option<&Stack> {
        self.module_of_slice(slice_module)?.stack.as_ref()
    }

    /// The layer that a tensor belongs to and how many there are; `None` outside the stacks.
    pub fn layer<'a>(&self, tensor: &'a str) -> Option<(LayerName<'a>, u32)> {
        let layer = layers::split(tensor)?;
        let stack = self.modules[self.module_of(tensor)].stack.as_ref()?;
        (stack.prefix == layer.stack).then_some((layer, stack.count))
    }

    /// What its config says that its tensors do not bear out.
    pub fn contradiction(&self, checkpoint: &Checkpoint) -> Option<String> {
        let config = &checkpoint.config;
        let shares = config.get("model_type").and_then(Value::as_str).is_some_and(|t| FAMILIES.shares_layers(t));
        let stacks = stacks(checkpoint);
        self.modules.iter().find_map(|module| {
            let (key, value) = module.count_entry(config)?;
            let most = match &module.stack {
                Some(stack) => stacks.get(stack.prefix.as_str()).map_or(0, count),
                None => stacks.values().map(count).max().unwrap_or(0),
            };
            match value.as_u64() {
                None => Some(format!("its config.json says {key} is {value}, which is no number of layers")),
                Some(n) if n > u64::from(most) && !shares && module.needs_layers() => Some(format!(
                    "its config.json says {n} layers ({key}) and its tensors have {most}; the checkpoint is incomplete"
                )),
                Some(_) => None,
            }
        })
    }

    /// Layers past what the config counts, which loaders pass over or take for something else.
    pub fn uncounted(&self, checkpoint: &Checkpoint) -> Option<String> {
        let stacks = stacks(checkpoint);
        self.modules.iter().find_map(|module| {
            let stack = module.stack.as_ref()?;
            let there = stacks.get(stack.prefix.as_str()).map_or(0, count);
            (there > stack.count).then(|| {
                format!(
                    "its config.json counts {} layers and its tensors have {there}; those after are merged, and loaders pass over them unless they know what they are for",
                    stack.count
                )
            })
        })
    }

    /// A layer of a stack that no tensor belongs to although a later layer has tensors.
    pub fn gap(&self, checkpoint: &Checkpoint, stack: &Stack) -> Option<u32> {
        let stacks = stacks(checkpoint);
        let layers = stacks.get(stack.prefix.as_str())?;
        (0..stack.count).find(|i| !layers.contains(i))
    }

    pub fn names(&self) -> String {
        self.modules.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl Module {
    fn of_rule(rule: &ModuleRule, config: &Value) -> Module {
        let part = rule.configs.iter().map(|key| as_pointer(key)).find(|p| config.pointer(p).is_some());
        Module {
            name: rule.name.clone(),
            aliases: rule.aliases.clone(),
            claims: if rule.parts.is_empty() { Claims::Rest } else { Claims::Words(rule.parts.clone()) },
            config: part,
            layer_counts: rule.layer_counts.clone(),
            stack: None,
        }
    }

    fn default_of(config: &Value) -> Module {
        let counts = &FAMILIES.layer_counts;
        let nested = !counts.iter().any(|key| config.get(key).is_some()) && config.get("text_config").is_some();
        Module {
            name: "default".to_owned(),
            aliases: Vec::new(),
            claims: Claims::Rest,
            config: Some(if nested { "/text_config".to_owned() } else { String::new() }),
            layer_counts: counts.clone(),
            stack: None,
        }
    }

    /// The key of the config that says how many layers there are, with what it says.
    pub fn count_entry<'a>(&self, config: &'a Value) -> Option<(String, &'a Value)> {
        let at = self.config.as_ref()?;
        self.layer_counts.iter().find_map(|key| {
            let pointer = format!("{at}/{key}");
            Some((pointer[1..].to_owned(), config.pointer(&pointer)?))
        })
    }

    /// Whether a config that speaks of layers must be borne out: towers of other libraries number theirs their own way.
    fn needs_layers(&self) -> bool {
        matches!(self.claims, Claims::Rest) || self.config.as_deref() == Some("")
    }

    /// Of the stacks whose tensors it has: the one whose length the config names, else the longest.
    fn main_stack(
        &self,
        stacks: &BTreeMap<&str, BTreeSet<u32>>,
        members: &BTreeSet<&str>,
        config: &Value,
    ) -> Option<Stack> {
        let own: BTreeSet<&str> = members.iter().filter_map(|name| Some(layers::split(name)?.stack)).collect();
        let said = self.count_entry(config).and_then(|(_, n)| u32::try_from(n.as_u64()?).ok());
        let counts: Vec<(&str, u32)> = own.iter().map(|stack| (*stack, count(&stacks[stack]))).collect();
        let pick = |of: &dyn Fn(u32) -> bool| -> Option<&str> {
            let fitting: Vec<&str> = counts.iter().filter(|(_, n)| of(*n)).map(|(stack, _)| *stack).collect();
            if let [stack] = fitting.as_slice() { Some(stack) } else { None }
        };
        let named = said.and_then(|n| pick(&|count| count == n).or_else(|| pick(&|count| count > n)));
        let speaks_of_layers = !self.layer_counts.is_empty();
        let only = counts.first().filter(|_| counts.len() == 1 && speaks_of_layers).map(|(stack, _)| *stack);
        let prefix = named.or(only)?;
        let there = count(&stacks[prefix]);
        Some(Stack { prefix: prefix.to_owned(), count: said.filter(|n| *n > 0 && *n < there).unwrap_or(there) })
    }
}

/// Where nothing says what a model consists of, each stack is a module, and what is left is one.
fn one_for_each_stack(stacks: &BTreeMap<&str, BTreeSet<u32>>) -> Vec<Module> {
    let module = |name: &str, claims: Claims, stack: Option<Stack>| Module {
        name: name.to_owned(),
        aliases: Vec::new(),
        claims,
        config: None,
        layer_counts: Vec::new(),
        stack,
    };
    let of_stacks = stacks.iter().filter(|(_, layers)| is_stack(layers)).map(|(prefix, layers)| {
        let stack = Stack { prefix: (*prefix).to_owned(), count: count(layers) };
        module(prefix, Claims::Stack((*prefix).to_owned()), Some(stack))
    });
    of_stacks.chain([module("default", Claims::Rest, None)]).collect()
}

fn module_of(modules: &[Module], tensor: &str) -> usize {
    let layer = layers::split(tensor);
    let outer = layer.map_or(tensor, |layer| layer.stack);
    let claims = |module: &Module| match &module.claims {
        Claims::Words(words) => outer.split('.').any(|part| words.iter().any(|word| part.contains(word.as_str()))),
        Claims::Stack(prefix) => layer.is_some_and(|layer| layer.stack == prefix),
        Claims::Rest => true,
    };
    modules.iter().position(claims).unwrap_or(modules.len() - 1)
}

/// The numbers that follow each prefix.
fn stacks(checkpoint: &Checkpoint) -> BTreeMap<&str, BTreeSet<u32>> {
    let mut stacks: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    for name in checkpoint.tensors.keys().filter_map(|name| layers::split(name)) {
        stacks.entry(name.stack).or_default().insert(name.index);
    }
    stacks
}

/// Layers counted to the highest index.
fn count(layers: &BTreeSet<u32>) -> u32 {
    layers.last().map_or(0, |last| last + 1)
}

/// Several layers in a row, not a few numbered parts.
fn is_stack(layers: &BTreeSet<u32>) -> bool {
    layers.len() > 1 && layers.len() == count(layers) as usize
}

fn as_pointer(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("/{key}") }
}

/// Whether a tensor is made anew by whoever loads the model, so that it need not be there.
pub(crate) fn is_derived_buffer(name: &str, info: &TensorInfo) -> bool {
    let is_mask = (name.ends_with("attn.bias") || name.ends_with("attention.bias"))
        && matches!(info.shape.as_slice(), [1, 1, a, b] if a == b);
    is_mask || FAMILIES.derived_buffers.iter().any(|suffix| name.ends_with(suffix.as_str()))
}

#[cfg(test)]
mod tests;
