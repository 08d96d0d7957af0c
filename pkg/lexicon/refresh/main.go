// Command refresh copies from a folder of lexicon documents those that the
// package lexicon embeds: the record kinds of the AppView and what they refer
// to. Its arguments are the source folder and the destination.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"sluice/pkg/lexicon"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "refresh:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("want two arguments: a folder with lexicon documents, and where to put those that are needed")
	}
	from, to := args[0], args[1]
	docs, err := lexicon.ReadDocuments(os.DirFS(from))
	if err != nil {
		return err
	}
	ids, err := lexicon.Closure(docs, lexicon.Collections())
	if err != nil {
		return err
	}
	texts, err := read(from, ids)
	if err != nil {
		return err
	}
	if err := clean(to); err != nil {
		return err
	}
	for id, text := range texts {
		if err := os.WriteFile(filepath.Join(to, id+".json"), text, 0o644); err != nil { //nolint:gosec // a source file
			return err
		}
	}
	_, err = fmt.Fprintf(os.Stdout, "%d lexicons in %s\n", len(texts), to)
	return err
}

// read returns the wanted documents, indented, with references in short form.
func read(dir string, ids []string) (map[string][]byte, error) {
	want := map[string]bool{}
	for _, id := range ids {
		want[id] = true
	}
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error { //nolint:gosec // the folder is an argument of the developer
		if err != nil || entry.IsDir() || filepath.Ext(name) != ".json" {
			return err
		}
		text, err := os.ReadFile(name) //nolint:gosec // the folder is an argument of the developer
		if err != nil {
			return err
		}
		var head struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal(text, &head); err != nil || !want[head.ID] {
			return nil //nolint:nilerr // not a lexicon document
		}
		text = bytes.ReplaceAll(bytes.TrimSpace(text), []byte(`"lex:`), []byte(`"`))
		var b bytes.Buffer
		if err := json.Indent(&b, text, "", "  "); err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		b.WriteByte('\n')
		out[head.ID] = b.Bytes()
		return nil
	})
	return out, err
}

// clean removes the documents of an earlier run.
func clean(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // a source folder
		return err
	}
	old, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return err
	}
	for _, name := range old {
		if err := os.Remove(name); err != nil { //nolint:gosec // the folder is an argument of the developer
			return err
		}
	}
	return nil
}
