//! MIME multipart, the envelope by which cloud-init and nodeadm take several documents.

use std::fmt::Write;

use super::UserDataError;

/// One document: its header lines and its body, as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) text: String,
}

impl Part {
    pub(crate) fn new(content_type: &str, body: &str) -> Self {
        Self {
            text: format!("Content-Type: {content_type}\n\n{body}"),
        }
    }
}

pub(crate) fn is_multipart(text: &str) -> bool {
    text.trim_start()
        .to_ascii_lowercase()
        .starts_with("mime-version:")
        || text
            .trim_start()
            .to_ascii_lowercase()
            .starts_with("content-type: multipart")
}

/// The parts of a multipart document.
pub(crate) fn parts(text: &str) -> Result<Vec<Part>, UserDataError> {
    let text = text.replace('\r', "");
    let (head, body) = text
        .trim_start()
        .split_once("\n\n")
        .ok_or(UserDataError::Mime("no empty line ends the header"))?;
    let boundary = boundary(head).ok_or(UserDataError::Mime("the header names no boundary"))?;
    let (start, end) = (format!("--{boundary}"), format!("--{boundary}--"));
    let mut all = Vec::new();
    let mut open: Option<Vec<&str>> = None;
    for line in body.lines() {
        let line_end = line.trim_end();
        if line_end == start || line_end == end {
            all.extend(open.take().map(|lines| Part {
                text: lines.join("\n"),
            }));
            if line_end == end {
                return Ok(all);
            }
            open = Some(Vec::new());
        } else if let Some(lines) = &mut open {
            lines.push(line);
        }
    }
    Err(UserDataError::Mime("the closing boundary is missing"))
}

fn boundary(head: &str) -> Option<String> {
    let at = head.to_ascii_lowercase().find("boundary=")?;
    let rest = &head[at + "boundary=".len()..];
    let value = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => rest.split([';', '\n', ' ']).next()?,
    };
    (!value.is_empty()).then(|| value.to_owned())
}

/// The envelope around these parts.
pub(crate) fn multipart(parts: &[Part]) -> String {
    // A boundary must not occur in what it bounds.
    let mut boundary = "//".to_owned();
    while parts.iter().any(|p| p.text.contains(&format!("--{boundary}"))) {
        boundary.push('/');
    }
    let mut text = format!("MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"{boundary}\"\n\n");
    for part in parts {
        write!(text, "--{boundary}\n{}\n", part.text.trim_end_matches('\n'))
            .expect("a String takes everything");
    }
    writeln!(text, "--{boundary}--").expect("a String takes everything");
    text
}
