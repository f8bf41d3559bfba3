package inventory

import (
	"fmt"
	"slices"
	"strings"

	"capv-static-ip.dev/allocator/ipam"
)

// Story is what is known of one thing, for people.
type Story struct {
	Title string
	// Lines are indented by two spaces for each level that they are under the title. Those
	// that begin with "! ", after that, say what is wrong.
	Lines []string
	// Next is what to type next, empty if there is nothing to do.
	Next string
	// See are pages of the documentation that have more on what is wrong.
	See []string
	// Wrong says that something is not as it should be.
	Wrong bool
}

// denials is the page with a section for each reason of a refusal.
const denials = "https://capv-static-ip.dev/docs/denials/#"

// see names the section on a reason of a refusal.
func (s *Story) see(reason ipam.Reason) {
	if page := denials + strings.ToLower(string(reason)); !slices.Contains(s.See, page) {
		s.See = append(s.See, page)
	}
}

func (s *Story) say(level int, format string, args ...any) {
	s.Lines = append(s.Lines, strings.Repeat("  ", level)+fmt.Sprintf(format, args...))
}

// field says one thing of what the line above it is about.
func (s *Story) field(level int, name, format string, args ...any) {
	s.say(level, "%-10s %s", name, fmt.Sprintf(format, args...))
}

// warn says what is not as it should be.
func (s *Story) warn(level int, format string, args ...any) {
	s.Wrong = true
	s.say(level, "! %s", fmt.Sprintf(format, args...))
}

// next says what to type, if nothing more urgent was said.
func (s *Story) next(format string, args ...any) {
	if s.Next == "" {
		s.Next = fmt.Sprintf(format, args...)
	}
}

// add tells another story under this one.
func (s *Story) add(other Story) {
	s.say(0, "%s", other.Title)
	for _, line := range other.Lines {
		s.say(1, "%s", line)
	}
	s.Wrong = s.Wrong || other.Wrong
	for _, page := range other.See {
		if !slices.Contains(s.See, page) {
			s.See = append(s.See, page)
		}
	}
	if other.Next != "" {
		s.next("%s", other.Next)
	}
}
