"""Random problems for every public function, held against truths that use nothing of the library."""
