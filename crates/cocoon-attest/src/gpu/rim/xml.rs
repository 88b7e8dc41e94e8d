//! The little of XML that manifests are made of, read strictly, and its canonical form.
//!
//! Elements, attributes in double quotes, namespaces, and text in ASCII; no entities, comments, processing
//! instructions, CDATA or document types: what is not there can neither hide anything nor expand to anything.
//!
//! Sources: "Extensible Markup Language (XML) 1.0", "Namespaces in XML 1.0", "Canonical XML 1.1" (W3C). For the XML
//! that is read here, canonical form means: elements are never empty tags, namespaces come before attributes and only
//! where they change something, namespaces are ordered by prefix, attributes by namespace and name, each after one
//! space. Text stays as it is.

/// Longest document, bytes. NVIDIA's manifests take about 21 KiB.
pub(in super::super) const MAX_LEN: usize = 256 * 1024;
/// Deepest nesting. Manifests have 6.
const MAX_DEPTH: usize = 10;
/// Most elements in a document. Manifests have 64 measurements.
const MAX_ELEMENTS: usize = 1024;
/// Most attributes of an element.
const MAX_ATTRIBUTES: usize = 96;

/// Most namespaces in force at one place. Manifests have 5.
const MAX_NAMESPACES: usize = 16;

/// An element with what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element<'a> {
    /// As written, with its prefix.
    tag: &'a str,
    /// Its namespace's name; empty for none.
    namespace: &'a str,
    local: &'a str,
    /// Prefixes declared here, in their order, each with the namespace's name.
    declared: Vec<(&'a str, &'a str)>,
    /// In canonical order.
    attributes: Vec<Attribute<'a>>,
    content: Vec<Node<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node<'a> {
    Element(Element<'a>),
    Text(&'a str),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Attribute<'a> {
    namespace: &'a str,
    local: &'a str,
    /// As written, with its prefix.
    name: &'a str,
    value: &'a str,
}

impl<'a> Element<'a> {
    /// Whether it has this name in this namespace.
    pub(super) fn is(&self, namespace: &str, local: &str) -> bool {
        self.namespace == namespace && self.local == local
    }

    /// The elements in it.
    pub(super) fn elements(&self) -> impl Iterator<Item = &Element<'a>> {
        self.content.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The one element in it that has this name.
    pub(super) fn only_child(&self, namespace: &str, local: &str) -> Result<&Element<'a>, String> {
        let mut named = self.elements().filter(|element| element.is(namespace, local));
        match (named.next(), named.next()) {
            (Some(element), None) => Ok(element),
            _ => Err(format!("it does not have one {local}")),
        }
    }

    /// An attribute's value.
    pub(super) fn attribute(&self, namespace: &str, local: &str) -> Result<&'a str, String> {
        self.attributes
            .iter()
            .find(|attribute| attribute.namespace == namespace && attribute.local == local)
            .map(|attribute| attribute.value)
            .ok_or_else(|| format!("it has a {} without {local}", self.local))
    }

    /// The text in it, where there is nothing else.
    pub(super) fn text(&self) -> Result<String, String> {
        let parts = self.content.iter().map(|node| match node {
            Node::Text(text) => Some(*text),
            Node::Element(_) => None,
        });
        parts.collect::<Option<String>>().ok_or_else(|| format!("its {} has more than text", self.local))
    }

    /// Whether there is no text in it but white space.
    pub(super) fn has_no_text(&self) -> bool {
        self.content.iter().all(|node| match node {
            Node::Text(text) => text.trim_ascii().is_empty(),
            Node::Element(_) => true,
        })
    }

    /// Its canonical form as a document of its own, without the child `except`. `outside` are the namespaces in force
    /// around it, outermost first: as the top of what is written, it must declare them itself.
    pub(super) fn canonical(&self, except: Option<&Element<'a>>, outside: &[&Element<'a>]) -> String {
        let mut inherited: Vec<(&str, &str)> = Vec::new();
        for (prefix, name) in outside.iter().flat_map(|element| &element.declared) {
            inherited.retain(|(known, _)| known != prefix);
            inherited.push((prefix, name));
        }
        inherited.retain(|(prefix, _)| self.declared.iter().all(|(own, _)| own != prefix));
        let mut written = String::new();
        self.write(&mut written, &mut Vec::new(), &inherited, except);
        written
    }

    fn write(
        &self,
        written: &mut String,
        in_force: &mut Vec<(&'a str, &'a str)>,
        inherited: &[(&'a str, &'a str)],
        except: Option<&Element<'a>>,
    ) {
        let outer = in_force.len();
        let mut new: Vec<_> = self.declared.iter().chain(inherited).copied().collect();
        new.retain(|(prefix, name)| lookup(in_force, prefix) != Some(name));
        new.sort_unstable();
        written.extend(["<", self.tag]);
        for (prefix, name) in &new {
            let colon = if prefix.is_empty() { "" } else { ":" };
            written.extend([" xmlns", colon, prefix, "=\"", name, "\""]);
        }
        for Attribute { name, value, .. } in &self.attributes {
            written.extend([" ", name, "=\"", value, "\""]);
        }
        written.push('>');
        in_force.extend(new);
        for node in &self.content {
            match node {
                Node::Text(text) => written.push_str(text),
                Node::Element(child) if except.is_some_and(|except| std::ptr::eq(except, child)) => {}
                Node::Element(child) => child.write(written, in_force, &[], None),
            }
        }
        in_force.truncate(outer);
        written.extend(["</", self.tag, ">"]);
    }
}

/// The namespace of a prefix: the innermost declaration counts.
fn lookup<'a>(in_force: &[(&'a str, &'a str)], prefix: &str) -> Option<&'a str> {
    in_force.iter().rev().find(|(known, _)| *known == prefix).map(|(_, name)| *name)
}

/// Reads a document.
///
/// # Errors
/// Says what is not as it must be.
pub(super) fn parse(bytes: &[u8]) -> Result<Element<'_>, String> {
    if bytes.len() > MAX_LEN {
        return Err(format!("it is longer than {MAX_LEN} bytes"));
    }
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii());
    let text = text.ok_or("it is not ASCII")?;
    // The declaration is no part of the canonical form.
    let text = match text.strip_prefix("<?xml ") {
        Some(rest) => rest.split_once("?>").ok_or("its declaration does not end")?.1,
        None => text,
    };
    let mut parser = Parser { rest: text.trim_ascii_start(), elements: 0, in_force: Vec::new() };
    let root = parser.element(0)?;
    if parser.rest.trim_ascii().is_empty() { Ok(root) } else { Err(malformed("end")) }
}

fn malformed(what: &str) -> String {
    format!("its XML is malformed or unusual at its {what}")
}

struct Parser<'a> {
    rest: &'a str,
    elements: usize,
    in_force: Vec<(&'a str, &'a str)>,
}

impl<'a> Parser<'a> {
    fn eat(&mut self, expected: &str) -> bool {
        let rest = self.rest.strip_prefix(expected);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// What comes before the first character that does not belong.
    fn take_while(&mut self, belongs: impl Fn(u8) -> bool) -> &'a str {
        let end = self.rest.bytes().position(|byte| !belongs(byte)).unwrap_or(self.rest.len());
        // The whole is ASCII, so every place is a boundary.
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn name(&mut self) -> Result<&'a str, String> {
        let name = self.take_while(|byte| byte.is_ascii_alphanumeric() || b":_-.".contains(&byte));
        let starts = |part: &str| part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        let mut parts = name.split(':');
        let sound = parts.clone().count() <= 2 && parts.all(starts);
        if sound { Ok(name) } else { Err(malformed("names")) }
    }

    fn element(&mut self, depth: usize) -> Result<Element<'a>, String> {
        self.elements += 1;
        if depth == MAX_DEPTH || self.elements > MAX_ELEMENTS {
            return Err(malformed("number of elements"));
        }
        if !self.eat("<") {
            return Err(malformed("elements"));
        }
        let tag = self.name()?;
        let (declared, written, is_empty) = self.attributes()?;
        let outer = self.in_force.len();
        self.in_force.extend(&declared);
        if self.in_force.len() > MAX_NAMESPACES {
            return Err(malformed("number of namespaces"));
        }
        let (namespace, local) = self.resolve(tag, true)?;
        let mut attributes = Vec::new();
        for (name, value) in written {
            let (namespace, local) = self.resolve(name, false)?;
            attributes.push(Attribute { namespace, local, name, value });
        }
        attributes.sort_by_key(|attribute| (attribute.namespace, attribute.local));
        let key = |attribute: &Attribute<'a>| (attribute.namespace, attribute.local);
        if attributes.windows(2).any(|pair| key(&pair[0]) == key(&pair[1])) {
            return Err(malformed("attributes"));
        }
        let content = if is_empty { Vec::new() } else { self.content(tag, depth)? };
        self.in_force.truncate(outer);
        Ok(Element { tag, namespace, local, declared, attributes, content })
    }

    /// Namespace and name of an element or an attribute. Without prefix, an attribute is in no namespace.
    fn resolve(&self, name: &'a str, is_element: bool) -> Result<(&'a str, &'a str), String> {
        match name.split_once(':') {
            None if is_element => Ok((lookup(&self.in_force, "").unwrap_or_default(), name)),
            None => Ok(("", name)),
            // `xml` is never declared here, so its attributes, which are inherited, are refused.
            Some((prefix, local)) => {
                let namespace = lookup(&self.in_force, prefix);
                Ok((namespace.ok_or_else(|| malformed("prefixes"))?, local))
            }
        }
    }

    /// Declared namespaces, attributes, and whether the tag is an empty one.
    #[expect(clippy::type_complexity, reason = "used once, taken apart at once")]
    fn attributes(&mut self) -> Result<(Vec<(&'a str, &'a str)>, Vec<(&'a str, &'a str)>, bool), String> {
        let (mut declared, mut attributes) = (Vec::<(&str, &str)>::new(), Vec::new());
        loop {
            let space = self.take_while(|byte| matches!(byte, b' ' | b'\n' | b'\t'));
            if self.eat(">") {
                return Ok((declared, attributes, false));
            }
            if self.eat("/>") {
                return Ok((declared, attributes, true));
            }
            if space.is_empty() || declared.len() + attributes.len() == MAX_ATTRIBUTES {
                return Err(malformed("attributes"));
            }
            let name = self.name()?;
            if !self.eat("=\"") {
                return Err(malformed("attributes"));
            }
            // Line ends and tabs would be changed by an XML reader; `>` needs no escape here, and none is there.
            let value = self.take_while(|byte| (b' '..=b'~').contains(&byte) && !b"\"<&>".contains(&byte));
            if !self.eat("\"") {
                return Err(malformed("attributes"));
            }
            let prefix = if name == "xmlns" { Some("") } else { name.strip_prefix("xmlns:") };
            match prefix {
                None => attributes.push((name, value)),
                Some(prefix) => {
                    let twice = declared.iter().any(|(known, _)| *known == prefix);
                    // Taking a namespace back (an empty name) has rules of its own in canonical form.
                    if twice || value.is_empty() || prefix.starts_with("xml") {
                        return Err(malformed("namespaces"));
                    }
                    declared.push((prefix, value));
                }
            }
        }
    }

    fn content(&mut self, tag: &str, depth: usize) -> Result<Vec<Node<'a>>, String> {
        let mut content = Vec::new();
        loop {
            let text = self.take_while(|byte| {
                matches!(byte, b'\n' | b'\t') || ((b' '..=b'~').contains(&byte) && !b"<&>".contains(&byte))
            });
            if !text.is_empty() {
                content.push(Node::Text(text));
            }
            if self.eat("</") {
                let closed = self.name()?;
                return if closed == tag && self.eat(">") { Ok(content) } else { Err(malformed("end tags")) };
            }
            content.push(Node::Element(self.element(depth + 1)?));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn canonical(xml: &str) -> Result<String, String> {
        parse(xml.as_bytes()).map(|root| root.canonical(None, &[]))
    }

    #[test]
    fn namespaces_come_first_and_attributes_in_the_order_of_their_namespaces() {
        let read = canonical(
            "<a  xmlns:z=\"n:1\" z:k=\"1\"\n b=\"2\" a=\"3\" xmlns=\"n:9\" xmlns:b=\"n:0\" b:x=\"4\"/>\n",
        );
        let expected =
            "<a xmlns=\"n:9\" xmlns:b=\"n:0\" xmlns:z=\"n:1\" a=\"3\" b=\"2\" b:x=\"4\" z:k=\"1\"></a>";
        assert_eq!(read.unwrap(), expected);
    }

    #[test]
    fn a_namespace_is_declared_only_where_it_changes() {
        let read = canonical("<a xmlns:p=\"n:1\"><b xmlns:p=\"n:1\"> <p:c xmlns:p=\"n:2\"/></b><p:d/></a>");
        assert_eq!(read.unwrap(), "<a xmlns:p=\"n:1\"><b> <p:c xmlns:p=\"n:2\"></p:c></b><p:d></p:d></a>");
    }

    #[test]
    fn a_part_declares_what_is_in_force_around_it() {
        let root =
            parse(b"<a xmlns=\"n:0\" xmlns:q=\"n:1\"><b xmlns:p=\"n:2\"><p:c k=\"v\"/></b></a>").unwrap();
        let b = root.only_child("n:0", "b").unwrap();
        let c = b.only_child("n:2", "c").unwrap();
        let expected = "<p:c xmlns=\"n:0\" xmlns:p=\"n:2\" xmlns:q=\"n:1\" k=\"v\"></p:c>";
        assert_eq!(c.canonical(None, &[&root, b]), expected);
        assert_eq!(root.canonical(Some(b), &[]), "<a xmlns=\"n:0\" xmlns:q=\"n:1\"></a>");
    }

    #[test]
    fn anything_beyond_elements_attributes_and_plain_text_is_refused() {
        for xml in [
            "",
            "a",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<a/>x",
            "<a b=\"1\" b=\"2\"/>",
            "<a b='1'/>",
            "<a b=\"&amp;\"/>",
            "<a>&amp;</a>",
            "<a><!-- --></a>",
            "<!DOCTYPE a><a/>",
            "<a><![CDATA[]]></a>",
            "<a><?p?></a>",
            "<a>]]></a>",
            "<p:a/>",
            "<a p:b=\"1\"/>",
            "<a xml:lang=\"en\"/>",
            "<a xmlns=\"\"/>",
            "<a xmlns:xml=\"n\"/>",
            "<a xmlns:p=\"n\" xmlns:p=\"m\"/>",
            "<a b=\"\t\"/>",
            "<a>\r\n</a>",
            "<a b=\"1\"c=\"2\"/>",
            "<a xmlns:p=\"n\" xmlns:q=\"n\" p:b=\"1\" q:b=\"2\"/>",
            "<1/>",
            "<a:b:c/>",
            "<a>\u{e9}</a>",
            "<?xml <a/>",
        ] {
            assert!(canonical(xml).is_err(), "{xml}");
        }
        let deep = ["<a>".repeat(MAX_DEPTH + 1), "</a>".repeat(MAX_DEPTH + 1)].concat();
        assert!(canonical(&deep).is_err());
        let wide = format!("<a>{}</a>", "<b/>".repeat(MAX_ELEMENTS));
        assert!(canonical(&wide).is_err());
        let declared = |count| (0..count).map(|n| format!(" xmlns:p{n}=\"n\"")).collect::<String>();
        assert!(canonical(&format!("<a{}/>", declared(MAX_NAMESPACES))).is_ok());
        assert!(canonical(&format!("<a{}/>", declared(MAX_NAMESPACES + 1))).is_err());
        assert!(canonical("<?xml version=\"1.0\"?>\n<a/>").is_ok());
    }
}
