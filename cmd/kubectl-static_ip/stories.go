package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	"capv-static-ip.dev/cli/v1alpha1"
	"capv-static-ip.dev/inventory"
)

func newWho(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "who ADDRESS...", Short: "Everything that knows an address", Args: cobra.MinimumNArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			var ips []netip.Addr
			for _, text := range args {
				ip, err := netip.ParseAddr(text)
				if err != nil {
					return exit{exitUsage, fmt.Errorf("%q is no address: write one as 10.16.56.93", text)}
				}
				ips = append(ips, ip.Unmap())
			}
			// Who has an address may be in any namespace.
			graph, err := o.readAround(cmd.Context())
			if err != nil {
				return err
			}
			var stories []inventory.Story
			for _, ip := range ips {
				stories = append(stories, graph.Who(ip))
			}
			return o.tell(graph, "Address", args, stories)
		},
	}
}

// tell tells stories of things of these names, and returns what the program is to end with.
func (o *options) tell(graph *inventory.Graph, kind string, names []string, stories []inventory.Story) error {
	l := &list{kind: kind}
	wrong := false
	for i, story := range stories {
		wrong = wrong || story.Wrong
		l.add(&v1alpha1.Explanation{
			Metadata: meta("", names[min(i, len(names)-1)]), Title: story.Title, Lines: append([]string{}, story.Lines...),
			Next: story.Next, See: story.See, Wrong: story.Wrong,
		})
	}
	if o.isTable() {
		for i, story := range stories {
			o.draw(story, i > 0)
		}
	} else if err := o.show(l); err != nil {
		return err
	}
	if wrong {
		return exit{code: exitNo}
	}
	return seen(graph)
}

// draw prints a story as a tree.
func (o *options) draw(story inventory.Story, isNext bool) {
	if isNext {
		fmt.Fprintln(o.streams.Out)
	}
	fmt.Fprintln(o.streams.Out, oneLine(story.Title))
	levels := make([]int, len(story.Lines))
	for i, line := range story.Lines {
		levels[i] = (len(line) - len(strings.TrimLeft(line, " "))) / 2
	}
	for i, line := range story.Lines {
		text := oneLine(strings.TrimLeft(line, " "))
		if rest, isWrong := strings.CutPrefix(text, "! "); isWrong {
			text = o.paint(red, "!") + " " + rest
		}
		fmt.Fprintln(o.streams.Out, "  "+branches(levels, i)+text)
	}
	for _, page := range story.See {
		fmt.Fprintln(o.streams.Out, "See: "+page)
	}
	if story.Next != "" {
		fmt.Fprintln(o.streams.Out, "Now: "+oneLine(story.Next))
	}
}

// branches are what is drawn before a line that is under others.
func branches(levels []int, i int) string {
	var text strings.Builder
	for level := 1; level <= levels[i]; level++ {
		sign, isLast := "│  ", !hasMore(levels, i, level)
		switch {
		case level == levels[i] && isLast:
			sign = "└─ "
		case level == levels[i]:
			sign = "├─ "
		case isLast:
			sign = "   "
		}
		text.WriteString(sign)
	}
	return text.String()
}

// hasMore tells whether another line of this level follows under the same line.
func hasMore(levels []int, i, level int) bool {
	for _, next := range levels[i+1:] {
		if next <= level {
			return next == level
		}
	}
	return false
}

func newExplain(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "explain KIND/NAME",
		Short: "Why this address, or why none, and what to do next",
		Long: "Why this address, or why none, and what to do next.\n\n" +
			"KIND is " + anyOf(inventory.Explained()) + ". " +
			"The exit code is 1 if something is not as it should be.",
		Args: cobra.RangeArgs(1, 2),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var kinds []string
			for _, kind := range inventory.Explained() {
				kinds = append(kinds, kind+"/")
			}
			return kinds, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, name, ok := strings.Cut(strings.Join(args, "/"), "/")
			if !ok || name == "" || strings.Contains(name, "/") {
				return exit{exitUsage, fmt.Errorf("%q is not KIND/NAME, as in vspheremachine/md-0-4x2bs", strings.Join(args, " "))}
			}
			return o.explain(cmd, kind, name)
		},
	}
}

func (o *options) explain(cmd *cobra.Command, kind, name string) error {
	namespace, _, err := o.config.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return exit{exitUnreachable, err}
	}
	key := types.NamespacedName{Namespace: namespace, Name: name}
	graph, err := o.readCloser(cmd.Context(), key)
	if err != nil {
		return err
	}
	stories, known := graph.Explain(kind, key)
	switch {
	case !known:
		return exit{exitUsage, fmt.Errorf("kind %q is not %s", kind, anyOf(inventory.Explained()))}
	case len(stories) == 0 && len(graph.Unseen) > 0:
		return exit{exitUnseen, fmt.Errorf("no %s %q was seen in namespace %q", kind, name, namespace)}
	case len(stories) == 0:
		return exit{exitNo, fmt.Errorf("no %s %q in namespace %q", kind, name, namespace)}
	}
	return o.tell(graph, "Explanation", []string{name}, stories)
}

func anyOf(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
