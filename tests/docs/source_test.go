package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

// source is what the product's code says that the documentation has to say, too.
// It is found by form and not by package, so that code may move.
type source struct {
	// texts are the values of constants, by name; typed those of one type, by type.
	texts map[string]string
	typed map[string][]string
	// metrics are their names.
	metrics []string
	// events are the reasons that are written where an event is made.
	events []string
	// refusals are the formats of denials, by reason.
	refusals map[string][]string
	// meanings are what checks find, by their numbers.
	meanings map[string]string

	files []*ast.File
}

// readSource reads all code of the product, which is what is not tests/.
func readSource(t *testing.T) *source {
	t.Helper()
	s := &source{texts: map[string]string{}, typed: map[string][]string{}, refusals: map[string][]string{}, meanings: map[string]string{}}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != root && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "tests" || entry.Name() == "dist"):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		s.files = append(s.files, file)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// Constants come first: calls refer to them.
	s.inspect(s.constants)
	s.inspect(s.call)
	s.inspect(s.metric)
	s.inspect(s.meaning)
	return s
}

func (s *source) inspect(look func(ast.Node)) {
	for _, file := range s.files {
		ast.Inspect(file, func(node ast.Node) bool {
			look(node)
			return true
		})
	}
}

func (s *source) constants(node ast.Node) {
	spec, ok := node.(*ast.ValueSpec)
	if !ok || len(spec.Values) != len(spec.Names) {
		return
	}
	for i, value := range spec.Values {
		text, ok := s.text(value)
		if !ok {
			continue
		}
		s.texts[spec.Names[i].Name] = text
		if of, ok := spec.Type.(*ast.Ident); ok {
			s.typed[of.Name] = append(s.typed[of.Name], text)
		}
	}
}

// meaning reads a map from checks to texts.
func (s *source) meaning(node ast.Node) {
	literal, ok := node.(*ast.CompositeLit)
	if !ok {
		return
	}
	of, ok := literal.Type.(*ast.MapType)
	if !ok {
		return
	}
	if key, ok := of.Key.(*ast.Ident); !ok || key.Name != "CheckID" {
		return
	}
	for _, element := range literal.Elts {
		if pair, ok := element.(*ast.KeyValueExpr); ok {
			id, known := s.text(pair.Key)
			text, is := s.text(pair.Value)
			if known && is {
				s.meanings[id] = text
			}
		}
	}
}

// text is the value of a literal, of literals that are put together, or of a
// constant that has been read.
func (s *source) text(expression ast.Expr) (string, bool) {
	switch e := expression.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return text, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		left, isText := s.text(e.X)
		right, isTextToo := s.text(e.Y)
		return left + right, isText && isTextToo && e.Op == token.ADD
	case *ast.Ident:
		text, ok := s.texts[e.Name]
		return text, ok
	case *ast.SelectorExpr:
		return s.text(e.Sel)
	}
	return "", false
}

// reasonArgument is where the functions that make an event have its reason.
var reasonArgument = map[string]int{"Eventf": 3, "event": 2}

func (s *source) call(node ast.Node) {
	call, ok := node.(*ast.CallExpr)
	if !ok {
		return
	}
	name := ""
	switch function := call.Fun.(type) {
	case *ast.Ident:
		name = function.Name
	case *ast.SelectorExpr:
		name = function.Sel.Name
	}
	if i, ok := reasonArgument[name]; ok && len(call.Args) > i {
		if reason, ok := s.text(call.Args[i]); ok {
			s.events = append(s.events, reason)
		}
	}
	if name == "NewDesc" && len(call.Args) > 0 {
		if metric, ok := s.text(call.Args[0]); ok {
			s.metrics = append(s.metrics, metric)
		}
	}
	if name == "Refuse" && len(call.Args) > 1 {
		reason, known := s.text(call.Args[0])
		if format, ok := s.text(call.Args[1]); ok && known {
			s.refusals[reason] = append(s.refusals[reason], format)
		}
	}
}

func (s *source) metric(node ast.Node) {
	field, ok := node.(*ast.KeyValueExpr)
	if !ok {
		return
	}
	if key, ok := field.Key.(*ast.Ident); !ok || key.Name != "Name" {
		return
	}
	if name, ok := s.text(field.Value); ok && strings.HasPrefix(name, "capv_static_ip_") {
		s.metrics = append(s.metrics, name)
	}
}

var verb = regexp.MustCompile(`%[a-z]`)

// pattern matches the texts that a format makes. A part may be empty.
func pattern(format string) *regexp.Regexp {
	parts := verb.Split(format, -1)
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$")
}

// compare tells of what only one of code and page has.
func compare(t *testing.T, what, page string, code, documented []string) {
	t.Helper()
	if len(code) == 0 {
		t.Errorf("no %s is found in the code", what)
	}
	for _, name := range code {
		if !slices.Contains(documented, name) {
			t.Errorf("%s does not have the %s %s", page, what, name)
		}
	}
	for _, name := range documented {
		if !slices.Contains(code, name) {
			t.Errorf("%s has the %s %s, which the code does not have", page, what, name)
		}
	}
}
