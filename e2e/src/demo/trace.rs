//! Reads a trace of pods: a CSV file with a header line and at least the columns `name`, `cpu_milli`, `memory_mib` and
//! `num_gpu`, in any order, as the traces of Alibaba's `clusterdata` have them.

use std::collections::BTreeMap;
use std::fmt::Write;

use thiserror::Error;

/// A trace that cannot be used, and where in it. Lines and columns count from 1.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TraceError {
    #[error(
        "the trace is empty: it needs a header line with the columns name, cpu_milli, memory_mib and num_gpu"
    )]
    Empty,
    #[error("line 1: no column {column:?}; the columns are {found}")]
    NoColumn { column: &'static str, found: String },
    #[error("line {line}: {found} fields, but the header has {expected}")]
    FieldCount {
        line: usize,
        found: usize,
        expected: usize,
    },
    #[error("line {line}, column {column} ({name}): {value:?} is not a whole number of at least 0")]
    NotANumber {
        line: usize,
        column: usize,
        name: &'static str,
        value: String,
    },
    #[error("line {line}, column {column}: quoted fields are not supported")]
    Quoted { line: usize, column: usize },
    #[error("the trace has {found} pods without GPUs, but {asked} were asked for (--pods)")]
    TooFew { found: usize, asked: usize },
    #[error("the trace has no pods without GPUs")]
    NoPods,
}

/// How many pods ask for (CPU in millicores, memory in MiB). Sorted, so that one trace always makes one workload.
pub type Shapes = BTreeMap<(u64, u64), usize>;

/// The shapes of the first `limit` pods of a trace that ask for no GPU, or of all of them.
pub fn read_trace(text: &str, limit: Option<usize>) -> Result<Shapes, TraceError> {
    let mut lines = text.lines().map(|line| line.trim_end_matches('\r')).zip(1..);
    let (header, _) = lines.next().ok_or(TraceError::Empty)?;
    let names: Vec<&str> = header.split(',').map(str::trim).collect();
    let index = |column: &'static str| {
        names
            .iter()
            .position(|name| *name == column)
            .ok_or_else(|| TraceError::NoColumn {
                column,
                found: names.join(", "),
            })
    };
    index("name")?;
    let (cpu, memory, gpus) = (index("cpu_milli")?, index("memory_mib")?, index("num_gpu")?);

    let mut shapes = Shapes::new();
    let mut found = 0;
    for (text, line) in lines {
        if limit == Some(found) {
            break;
        }
        if text.is_empty() {
            continue;
        }
        let fields: Vec<&str> = text.split(',').map(str::trim).collect();
        if let Some(quoted) = fields.iter().position(|field| field.contains('"')) {
            return Err(TraceError::Quoted {
                line,
                column: quoted + 1,
            });
        }
        if fields.len() != names.len() {
            return Err(TraceError::FieldCount {
                line,
                found: fields.len(),
                expected: names.len(),
            });
        }
        let number = |index: usize, name: &'static str| {
            fields[index].parse::<u64>().map_err(|_| TraceError::NotANumber {
                line,
                column: index + 1,
                name,
                value: fields[index].to_owned(),
            })
        };
        let shape = (number(cpu, "cpu_milli")?, number(memory, "memory_mib")?);
        if number(gpus, "num_gpu")? > 0 {
            continue;
        }
        *shapes.entry(shape).or_default() += 1;
        found += 1;
    }
    match limit {
        Some(asked) if found < asked => Err(TraceError::TooFew { found, asked }),
        _ if found == 0 => Err(TraceError::NoPods),
        _ => Ok(shapes),
    }
}

/// One Deployment per shape: the ReplicaSet controller creates their pods as fast as the API server takes them.
pub(super) fn to_yaml(shapes: &Shapes) -> String {
    let mut yaml = String::new();
    for (&(cpu_milli, memory_mib), replicas) in shapes {
        let name = format!("shape-{cpu_milli}m-{memory_mib}mi");
        // Writing to a String cannot fail.
        let _ = write!(
            yaml,
            "---\n\
             apiVersion: apps/v1\n\
             kind: Deployment\n\
             metadata: {{name: {name}}}\n\
             spec:\n  \
               replicas: {replicas}\n  \
               selector: {{matchLabels: {{app: {name}}}}}\n  \
               template:\n    \
                 metadata: {{labels: {{app: {name}}}}}\n    \
                 spec:\n      \
                   terminationGracePeriodSeconds: 1\n      \
                   containers:\n      \
                   - name: pod\n        \
                     image: pause\n        \
                     resources: {{requests: {{cpu: {cpu_milli}m, memory: {memory_mib}Mi}}}}\n"
        );
    }
    yaml
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "name,cpu_milli,memory_mib,num_gpu\n";

    #[test]
    fn groups_equal_shapes_and_skips_gpus() {
        let text = format!("{HEADER}a,1000,512,0\nb,1000,512,0\r\nc,9,9,1\n\nd,2000,512,0\n");
        assert_eq!(
            read_trace(&text, None),
            Ok(Shapes::from([((1000, 512), 2), ((2000, 512), 1)]))
        );
        assert_eq!(read_trace(&text, Some(2)), Ok(Shapes::from([((1000, 512), 2)])));
        let yaml = to_yaml(&read_trace(&text, None).unwrap());
        assert_eq!(crate::cluster::parse_yaml(&yaml).unwrap().len(), 2);
    }

    #[test]
    fn says_where_a_trace_is_wrong() {
        let error = |rows: &str, limit| {
            read_trace(&format!("{HEADER}{rows}"), limit)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            error("a,1000,512,0\nb,1000,-5,0\n", None),
            "line 3, column 3 (memory_mib): \"-5\" is not a whole number of at least 0"
        );
        assert_eq!(
            error("a,1000,512\n", None),
            "line 2: 3 fields, but the header has 4"
        );
        assert_eq!(
            error("a,\"1,000\",512,0\n", None),
            "line 2, column 2: quoted fields are not supported"
        );
        assert_eq!(
            error("a,1,1,0\n", Some(2)),
            "the trace has 1 pods without GPUs, but 2 were asked for (--pods)"
        );
        assert_eq!(error("a,1,1,1\n", None), TraceError::NoPods.to_string());
        assert_eq!(read_trace("", None), Err(TraceError::Empty));
        assert_eq!(
            read_trace("name,cpu_milli,num_gpu\n", None)
                .unwrap_err()
                .to_string(),
            "line 1: no column \"memory_mib\"; the columns are name, cpu_milli, num_gpu"
        );
    }
}
