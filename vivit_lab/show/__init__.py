"""How results look: text and pictures to HTML, through templates that escape all text."""
