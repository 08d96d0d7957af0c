package check

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// Dashboard is the part of a Grafana dashboard that is looked at.
type Dashboard struct {
	File       string   `json:"-"`
	UID        string   `json:"uid"`
	Title      string   `json:"title"`
	Tags       []string `json:"tags"`
	Panels     []Panel  `json:"panels"`
	Templating struct {
		List []Variable `json:"list"`
	} `json:"templating"`
}

// Panel is one picture on it, or a row of them.
type Panel struct {
	ID          int        `json:"id"`
	Type        string     `json:"type"`
	Title       string     `json:"title"`
	Description string     `json:"description"`
	Datasource  Datasource `json:"datasource"`
	Grid        Grid       `json:"gridPos"`
	Targets     []Query    `json:"targets"`
	Panels      []Panel    `json:"panels"`
	FieldConfig struct {
		Defaults struct {
			Unit string `json:"unit"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
}

// Datasource says where a panel or a query gets its data.
type Datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

// Grid is the place of a panel.
type Grid struct {
	X int `json:"x"`
	Y int `json:"y"`
	W int `json:"w"`
	H int `json:"h"`
}

// Query is one question of a panel.
type Query struct {
	Expr       string     `json:"expr"`
	Legend     string     `json:"legendFormat"`
	RefID      string     `json:"refId"`
	Datasource Datasource `json:"datasource"`
}

// Variable is a choice at the head of a dashboard.
type Variable struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Query string `json:"query"`
}

// Dashboards reads every dashboard of a folder.
func Dashboards(dir string) ([]Dashboard, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: no dashboards", dir)
	}
	all := make([]Dashboard, 0, len(files))
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		d := Dashboard{File: filepath.Base(f)}
		if err := json.Unmarshal(raw, &d); err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		all = append(all, d)
	}
	return all, nil
}

// All lists the panels, those of rows too.
func (d *Dashboard) All() []Panel {
	var all []Panel
	for _, p := range d.Panels {
		if p.Type != "row" {
			all = append(all, p)
		}
		all = append(all, p.Panels...)
	}
	return all
}

var variable = regexp.MustCompile(`\$\{?(\w+)(:\w+)?\}?`)

// Substituted is the expression as Grafana sends it, every choice set to all.
func (q *Query) Substituted() string {
	return variable.ReplaceAllStringFunc(q.Expr, func(v string) string {
		switch variable.FindStringSubmatch(v)[1] {
		case "__rate_interval", "__interval":
			return "1m"
		case "__range":
			return "1h"
		default:
			return ".*"
		}
	})
}
