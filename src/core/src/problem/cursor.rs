//! A JSON value that knows where it stands, so that every complaint names a field.

use std::fmt;

use serde_json::{Map, Value};

use super::ProblemError;

/// A value and its path from the root, such as `pods[3].cpu`.
#[derive(Clone)]
pub(super) struct At<'a> {
    pub(super) value: &'a Value,
    path: String,
}

impl<'a> At<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        Self {
            value,
            path: String::new(),
        }
    }

    /// An error at this place.
    pub(super) fn error(&self, what: impl fmt::Display, fix: impl Into<String>) -> ProblemError {
        let path = if self.path.is_empty() {
            "(root)".to_owned()
        } else {
            self.path.clone()
        };
        ProblemError::Field {
            path,
            what: what.to_string(),
            fix: fix.into(),
        }
    }

    fn child(&self, key: &str, value: &'a Value) -> Self {
        // A key with a dot or a slash would make the path ambiguous.
        let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let path = match (plain, self.path.is_empty()) {
            (true, true) => key.to_owned(),
            (true, false) => format!("{}.{key}", self.path),
            (false, _) => format!("{}[{key:?}]", self.path),
        };
        Self { value, path }
    }

    /// The object here, after checking that it has no field but `known`.
    pub(super) fn fields(&self, known: &[&str]) -> Result<&'a Map<String, Value>, ProblemError> {
        let map = self.map()?;
        match map.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(map),
            Some(key) => Err(self.child(key, self.value).error(
                "this field is not known",
                format!("remove it or use one of: {}", known.join(", ")),
            )),
        }
    }

    fn map(&self) -> Result<&'a Map<String, Value>, ProblemError> {
        self.value
            .as_object()
            .ok_or_else(|| self.error("expected an object", "write { … }"))
    }

    /// A field that may be absent or null.
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        self.value
            .get(key)
            .filter(|value| !value.is_null())
            .map(|value| self.child(key, value))
    }

    pub(super) fn need(&self, key: &str) -> Result<Self, ProblemError> {
        self.get(key).ok_or_else(|| {
            self.child(key, self.value)
                .error("this field is required", format!("add {key:?} to the object"))
        })
    }

    pub(super) fn list(&self) -> Result<impl Iterator<Item = Self> + use<'a>, ProblemError> {
        let items = self
            .value
            .as_array()
            .ok_or_else(|| self.error("expected a list", "write [ … ]"))?;
        let path = self.path.clone();
        Ok(items.iter().enumerate().map(move |(i, value)| Self {
            value,
            path: format!("{path}[{i}]"),
        }))
    }

    /// The elements of a list field, nothing when it is absent.
    pub(super) fn each(&self, key: &str) -> Result<Vec<Self>, ProblemError> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(at) => Ok(at.list()?.collect()),
        }
    }

    /// The entries of an object field, nothing when it is absent.
    pub(super) fn entries(&self, key: &str) -> Result<Vec<(&'a str, Self)>, ProblemError> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(at) => Ok(at
                .map()?
                .iter()
                .map(|(key, value)| (key.as_str(), at.child(key, value)))
                .collect()),
        }
    }

    pub(super) fn text(&self) -> Result<&'a str, ProblemError> {
        self.value
            .as_str()
            .ok_or_else(|| self.error("expected a text", "put it in double quotes"))
    }

    pub(super) fn flag(&self) -> Result<bool, ProblemError> {
        self.value
            .as_bool()
            .ok_or_else(|| self.error("expected true or false", "write true or false"))
    }

    pub(super) fn number(&self) -> Result<f64, ProblemError> {
        self.value
            .as_f64()
            .filter(|n| n.is_finite() && *n >= 0.0)
            .ok_or_else(|| {
                self.error(
                    "expected a number that is not negative",
                    "write it without quotes",
                )
            })
    }

    /// A whole number within bounds.
    pub(super) fn whole(&self, low: i64, high: i64) -> Result<i64, ProblemError> {
        self.value
            .as_i64()
            .filter(|n| (low..=high).contains(n))
            .ok_or_else(|| {
                self.error(
                    "expected a whole number",
                    format!("write a number from {low} to {high}"),
                )
            })
    }

    /// One of a fixed set of words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, ProblemError> {
        let text = self.text()?;
        words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, meaning)| *meaning)
            .ok_or_else(|| {
                let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                self.error(
                    format!("{text:?} is not known here"),
                    format!("use one of: {}", known.join(", ")),
                )
            })
    }
}
