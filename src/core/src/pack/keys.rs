//! Labels as numbers: every label key that can matter, with the value each place has under it.
//!
//! A *place* is somewhere a pod could run: an offer (see [`super::offers`]) or an existing node. Places are
//! numbered offers first, nodes after. After compilation no label is compared as text again.

use std::sync::Arc;

use fixedbitset::FixedBitSet;
use rustc_hash::FxHashMap;

use crate::requirement::{Requirement, normalized_key};

/// Value id of a label that a place does not have.
pub(super) const ABSENT: u32 = 0;
/// Value id of a value nobody mentions.
pub(super) const OTHER: u32 = 1;
const FIRST: u32 = 2;

/// One label key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: Arc<str>,
    values: Vec<Arc<str>>,
    ids: FxHashMap<Arc<str>, u32>,
    /// Values up to here come from somebody's requirement, later ones only from places.
    n_mentioned: usize,
    /// Some topology constraint counts by this key.
    pub(super) topology: bool,
    /// Value id of each place.
    pub(super) of_place: Vec<u32>,
    /// Places by value id.
    places: Vec<Vec<u32>>,
}

impl Key {
    pub(super) fn intern(&mut self, value: &Arc<str>) -> u32 {
        if let Some(id) = self.ids.get(value) {
            return *id;
        }
        let id = FIRST + self.values.len() as u32;
        self.values.push(value.clone());
        self.ids.insert(value.clone(), id);
        id
    }

    /// Text of a value id; None for absent and unmentioned.
    pub(super) fn value(&self, id: u32) -> Option<&Arc<str>> {
        self.values.get(id.checked_sub(FIRST)? as usize)
    }

    pub(super) fn mentioned(&self) -> &[Arc<str>] {
        &self.values[..self.n_mentioned]
    }

    /// Whether a place with this value id satisfies a requirement on the key.
    fn satisfies(&self, requirement: &Requirement, value: u32) -> bool {
        match value {
            ABSENT => requirement.matches(None),
            // Stands for any text that is in no list and is not a number.
            OTHER => requirement.matches(Some("\u{0}")),
            id => requirement.matches(self.value(id).map(|v| &**v)),
        }
    }

    /// How many value ids there are, the two special ones included.
    pub(super) fn n_values(&self) -> usize {
        FIRST as usize + self.values.len()
    }
}

/// All keys that some requirement or topology constraint looks at.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pub(super) keys: Vec<Key>,
    by_name: FxHashMap<Arc<str>, u32>,
    n_places: usize,
    cache: FxHashMap<Requirement, FixedBitSet>,
}

impl Keys {
    /// The id of a key, new if need be. Aliases share the id of the stable name.
    pub(super) fn mention(&mut self, key: &Arc<str>) -> u32 {
        if let Some(id) = self.by_name.get(key) {
            return *id;
        }
        let name = normalized_key(key);
        let id = if let Some(id) = self.by_name.get(&name) {
            *id
        } else {
            let id = self.keys.len() as u32;
            self.keys.push(Key {
                name: name.clone(),
                values: Vec::new(),
                ids: FxHashMap::default(),
                n_mentioned: 0,
                topology: false,
                of_place: Vec::new(),
                places: Vec::new(),
            });
            self.by_name.insert(name, id);
            id
        };
        self.by_name.insert(key.clone(), id);
        id
    }

    pub(super) fn mention_topology(&mut self, key: &Arc<str>) -> u32 {
        let id = self.mention(key);
        self.keys[id as usize].topology = true;
        id
    }

    /// Notes the key and values of a requirement.
    pub(super) fn mention_requirement(&mut self, requirement: &Requirement) {
        let id = self.mention(&requirement.key) as usize;
        for value in &requirement.values {
            self.keys[id].intern(value);
        }
    }

    /// Ends the mentions: values interned from here on come from places.
    pub(super) fn close_mentions(&mut self) {
        for key in &mut self.keys {
            key.n_mentioned = key.values.len();
        }
    }

    pub(super) fn id(&self, key: &str) -> Option<u32> {
        self.by_name.get(key).copied()
    }

    /// To be called when every key knows the value of every place.
    pub(super) fn index(&mut self) {
        for key in &mut self.keys {
            self.n_places = key.of_place.len();
            key.places = vec![Vec::new(); key.n_values()];
            for (place, value) in key.of_place.iter().enumerate() {
                key.places[*value as usize].push(place as u32);
            }
        }
    }

    /// The places whose labels satisfy a requirement.
    pub(super) fn places(&mut self, requirement: &Requirement) -> &FixedBitSet {
        if !self.cache.contains_key(requirement) {
            let set = self.evaluate(requirement);
            self.cache.insert(requirement.clone(), set);
        }
        &self.cache[requirement]
    }

    fn evaluate(&self, requirement: &Requirement) -> FixedBitSet {
        let mut set = FixedBitSet::with_capacity(self.n_places);
        let Some(id) = self.id(&requirement.key) else {
            // Only keys nobody mentioned: absent everywhere.
            if requirement.matches(None) {
                set.insert_range(..);
            }
            return set;
        };
        let key = &self.keys[id as usize];
        for (value, places) in key.places.iter().enumerate() {
            if key.satisfies(requirement, value as u32) {
                set.extend(places.iter().map(|p| *p as usize));
            }
        }
        set
    }

    /// Which of the first `n` places satisfy a requirement.
    pub(super) fn satisfying(&self, requirement: &Requirement, n: usize) -> FixedBitSet {
        let mut set = FixedBitSet::with_capacity(n);
        match self.id(&requirement.key) {
            None => set.set_range(.., requirement.matches(None)),
            Some(id) => {
                let key = &self.keys[id as usize];
                let by_value: Vec<bool> = (0..key.n_values() as u32)
                    .map(|value| key.satisfies(requirement, value))
                    .collect();
                set.extend((0..n).filter(|place| by_value[key.of_place[*place] as usize]));
            }
        }
        set
    }

    /// Whether the labels of one place satisfy a requirement.
    pub(super) fn satisfied_at(&self, requirement: &Requirement, place: usize) -> bool {
        match self.id(&requirement.key) {
            None => requirement.matches(None),
            Some(id) => {
                let key = &self.keys[id as usize];
                key.satisfies(requirement, key.of_place[place])
            }
        }
    }

    /// The places that satisfy all of them.
    pub(super) fn conjunction(&mut self, requirements: &[Requirement]) -> FixedBitSet {
        let mut set = FixedBitSet::with_capacity(self.n_places);
        set.insert_range(..);
        for requirement in requirements {
            set.intersect_with(self.places(requirement));
        }
        set
    }

    /// The places that satisfy at least one of the conjunctions.
    pub(super) fn alternatives(&mut self, alternatives: &[Vec<Requirement>]) -> FixedBitSet {
        let mut set = FixedBitSet::with_capacity(self.n_places);
        for conjunction in alternatives {
            set.union_with(&self.conjunction(conjunction));
        }
        set
    }
}
